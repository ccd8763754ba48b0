package definition

import (
	"regexp"
	"slices"
	"strings"
)

// dictionaryUse is a place where a Jinja template reads `vars`, Ansible's own
// dictionary of variables that are not rendered yet.
type dictionaryUse struct {
	offset    int    // in the template, in bytes
	written   string // as it stands there, such as vars.site
	name      string // of the variable, "" where that is known at run time alone
	statement bool   // stands in {% %}, not in {{ }}
}

// mend says how to write the use.
func (u dictionaryUse) mend() string {
	name := u.name
	if name == "" {
		name = "lookup('ansible.builtin.vars', NAME)"
	}
	if u.statement {
		return "write " + name
	}
	return "write {{ " + name + " }}"
}

// dictionaryUses finds where the template reads `vars`. A name in a string, an
// attribute, a filter or an argument of that name is none, and a template that
// binds the name itself has none.
func dictionaryUses(template string) []dictionaryUse {
	var uses []dictionaryUse
	for _, code := range jinjaCode(template) {
		for i, token := range code.tokens {
			if token.text != "vars" || code.isOther(i) {
				continue
			}
			if code.binds(i) {
				return nil
			}
			name, last := code.subscript(i)
			uses = append(uses, dictionaryUse{
				offset: token.offset, written: template[token.offset:last.end()], name: name, statement: code.statement,
			})
		}
	}
	return uses
}

type jinjaToken struct {
	text   string
	offset int
}

func (t jinjaToken) end() int { return t.offset + len(t.text) }

// jinjaBlock is the code between one pair of delimiters.
type jinjaBlock struct {
	tokens    []jinjaToken
	statement bool
}

func (b jinjaBlock) at(i int) string {
	if i < 0 || i >= len(b.tokens) {
		return ""
	}
	return b.tokens[i].text
}

// isOther says whether the name at i is an attribute, a filter, a test or the
// keyword of an argument, and so no variable.
func (b jinjaBlock) isOther(i int) bool {
	before := b.at(i - 1)
	return before == "." || before == "|" || before == "is" || before == "not" && b.at(i-2) == "is" ||
		b.at(i+1) == "=" && (before == "(" || before == ",")
}

// binds says whether the statement gives the name at i a value of its own.
func (b jinjaBlock) binds(i int) bool {
	before := b.at(i - 1)
	parameter := (b.at(0) == "macro" || b.at(0) == "call") && (before == "(" || before == ",")
	return b.statement && (parameter || slices.Contains([]string{"set", "for", "with", "as", "import"}, before))
}

// names says whether the code reads a variable.
func (b jinjaBlock) names(variable string) bool {
	for i, token := range b.tokens {
		if token.text == variable && !b.isOther(i) {
			return true
		}
	}
	return false
}

// quotes says whether the code has a name as a text, as lookups of variables do.
func (b jinjaBlock) quotes(name string) bool {
	return slices.ContainsFunc(b.tokens, func(token jinjaToken) bool { return token.text == "'"+name+"'" || token.text == `"`+name+`"` })
}

var jinjaName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// subscript is the name of the variable that is read from the dictionary at i,
// "" where it is not written there, and the last token of the reading.
func (b jinjaBlock) subscript(i int) (name string, last jinjaToken) {
	literal := func(j int) string { return strings.Trim(b.at(j), `'"`) }
	isLiteral := func(j int) bool { return strings.ContainsAny(b.at(j), `'"`) && jinjaName.MatchString(literal(j)) }
	switch {
	case b.at(i+1) == "." && b.at(i+3) == "(": // a method of the dictionary
		if b.at(i+2) == "get" && isLiteral(i+4) && b.at(i+5) == ")" {
			return literal(i + 4), b.tokens[i+5]
		}
		return "", b.tokens[i+2]
	case b.at(i+1) == "." && jinjaName.MatchString(b.at(i+2)):
		return b.at(i + 2), b.tokens[i+2]
	case b.at(i+1) == "[" && isLiteral(i+2) && b.at(i+3) == "]":
		return literal(i + 2), b.tokens[i+3]
	}
	return "", b.tokens[i]
}

var (
	jinjaStart   = regexp.MustCompile(`\{[{%#]`)
	jinjaEndRaw  = regexp.MustCompile(`\{%[-+]?\s*endraw\s*[-+]?%\}`)
	jinjaOwnMark = regexp.MustCompile(`^#jinja2:.*_string`)
)

// jinjaCode is what stands between Jinja's delimiters, comments and raw blocks
// left out. A template whose first line gives Ansible other delimiters has
// none of these.
func jinjaCode(template string) []jinjaBlock {
	if jinjaOwnMark.MatchString(template) {
		return nil
	}
	var blocks []jinjaBlock
	for at := 0; at < len(template); {
		start := jinjaStart.FindStringIndex(template[at:])
		if start == nil {
			break
		}
		at += start[1]
		switch template[at-1] {
		case '#':
			at += skip(template[at:], strings.Index(template[at:], "#}"))
			continue
		case '{':
			var block jinjaBlock
			block.tokens, at = jinjaTokens(template, at, "}}")
			blocks = append(blocks, block)
		case '%':
			block := jinjaBlock{statement: true}
			block.tokens, at = jinjaTokens(template, at, "%}")
			if block.at(0) == "raw" {
				end := jinjaEndRaw.FindStringIndex(template[at:])
				if end == nil {
					return blocks
				}
				at += end[1]
				continue
			}
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// skip is the length of text up to and with a mark of two bytes at index, or
// all of it where there is none.
func skip(text string, index int) int {
	if index < 0 {
		return len(text)
	}
	return index + 2
}

// jinjaTokens reads the code from at to the closing delimiter, which brackets
// that are still open hide. It returns where the text goes on.
func jinjaTokens(template string, at int, closing string) (tokens []jinjaToken, end int) {
	open := 0
	if at < len(template) && strings.ContainsRune("-+", rune(template[at])) {
		at++
	}
	for at < len(template) {
		if open <= 0 && strings.HasPrefix(template[at:], closing) {
			return tokens, at + len(closing)
		}
		text := template[at : at+lexeme(template[at:])]
		switch text {
		case "(", "[", "{":
			open++
		case ")", "]", "}":
			open--
		}
		if strings.TrimSpace(text) != "" {
			tokens = append(tokens, jinjaToken{text, at})
		}
		at += len(text)
	}
	return tokens, at
}

// lexeme is the length of the string, the name or the mark that the code
// begins with. A string that does not end takes all the rest.
func lexeme(code string) int {
	switch first := code[0]; {
	case first == '\'' || first == '"':
		for i := 1; i < len(code); i++ {
			switch code[i] {
			case '\\':
				i++
			case first:
				return i + 1
			}
		}
		return len(code)
	case isNameByte(first):
		i := 1
		for i < len(code) && isNameByte(code[i]) {
			i++
		}
		return i
	case strings.IndexByte("=!<>", first) >= 0 && strings.HasPrefix(code[1:], "="):
		return 2
	}
	return 1
}

// isNameByte counts digits too, so that no name is found within a number.
func isNameByte(b byte) bool {
	return b == '_' || '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
}

// Package text is how what others wrote is shown: names, messages and output of
// registries, guests and tools may hold what moves a terminal's cursor, hides or
// reverses letters, or begins a line that only vmctl may write.
package text

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line is s on one line: what cannot be seen is shown as its escape in Go, such as
// \x1b or \u202e. That is all control and format characters (Unicode Cc, Cf), line
// ends, and bytes that are no UTF-8.
func Line(s string) string {
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !hidden(r):
			b.WriteRune(r)
		default:
			b.WriteString(escape(r))
		}
	}
	return b.String()
}

// hidden says whether a character cannot be seen as itself. The replacement
// character stands for bytes that are none.
func hidden(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

var short = map[rune]string{'\n': `\n`, '\r': `\r`, '\t': `\t`}

func escape(r rune) string {
	switch {
	case short[r] != "":
		return short[r]
	case r < utf8.RuneSelf:
		return fmt.Sprintf(`\x%02x`, r)
	case r > 0xffff:
		return fmt.Sprintf(`\U%08x`, r)
	default:
		return fmt.Sprintf(`\u%04x`, r)
	}
}

// Lines is Line for text of several lines, of which each stays one. Tabs become
// spaces; the carriage return that a console ends its lines with is left out.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = Line(strings.ReplaceAll(strings.TrimRight(line, "\r"), "\t", "    "))
	}
	return strings.Join(lines, "\n")
}

// Word is s as one word for a POSIX shell.
func Word(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./_^-", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

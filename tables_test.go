package btwimg_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// tables is where all that is known of a kind of thing stands, and the words that
// others must not write, for they ask the table.
var tables = map[string]struct {
	words *regexp.Regexp
	table string
	also  []string // places that mean something else by such a word
}{
	"architectures": {
		regexp.MustCompile(`\bamd64\b|x86[_-]64|\bx64\b|X64|i386-pc|\bq35\b|OVMF|\bovmf\b|qemu-system-x86|grub-(pc|efi|cloud)|shim-signed|isa-debugcon|4F68BCE3`),
		"orchestrator/arch",
		[]string{"orchestrator/host/seccomp.go", "orchestrator/host/calls.go"}, // of the builder's kernel
	},
	"formats": {regexp.MustCompile(`\b(qcow2|vmdk|vhdx?|vdi|vpc)\b|QFI|KDMV|vhdxfile|conectix`), "orchestrator/diskformat", nil},
}

// TestWhatIsKnownOfAThingStandsInOneTable reads the text constants of the program.
func TestWhatIsKnownOfAThingStandsInOneTable(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "e2e/") {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if pair, ok := n.(*ast.KeyValueExpr); ok && isExample(pair) {
				return false
			}
			literal, ok := n.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return true
			}
			for name, tc := range tables {
				text, _ := strconv.Unquote(literal.Value)
				if word := tc.words.FindString(text); word != "" && !isIn(path, append(tc.also, tc.table)) {
					t.Errorf("%s: %q belongs into the table of %s in %s", set.Position(literal.Pos()), word, name, tc.table)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// isExample says whether the field is a verb's examples, which name what a build leaves.
func isExample(pair *ast.KeyValueExpr) bool {
	key, ok := pair.Key.(*ast.Ident)
	return ok && key.Name == "Example"
}

func isIn(path string, places []string) bool {
	for _, place := range places {
		if strings.HasPrefix(path, place) {
			return true
		}
	}
	return false
}

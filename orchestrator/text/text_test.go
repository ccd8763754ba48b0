package text_test

import (
	"os/exec"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/btw-img/btw-img/orchestrator/text"
)

func TestWhatCannotBeSeenIsEscaped(t *testing.T) {
	for s, want := range map[string]string{
		"Grüße, 世界 – ok":             "Grüße, 世界 – ok",
		"a\x1b[2Jb\x07\x7f":          `a\x1b[2Jb\x07\x7f`,
		"a\u0085\u009bb":             `a\u0085\u009bb`,
		"cod.\u202egpj\u2066":        `cod.\u202egpj\u2066`,
		"a\u200bb\u200d\ufeff\u2028": `a\u200bb\u200d\ufeff\u2028`,
		"a\r\nvmctl: done\t":         `a\r\nvmctl: done\t`,
		"a\xffb\ufffd":               "a\\xffb\\ufffd",
		"\U000e0041":                 `\U000e0041`,
	} {
		if got := text.Line(s); got != want {
			t.Errorf("%q is shown as %q, want %q", s, got, want)
		}
	}
	if got := text.Lines("one\r\n\ttwo\x1b[0m\n"); got != "one\n    two\\x1b[0m\n" {
		t.Errorf("%q", got)
	}
}

func TestWordsReachAProgramAsTheyAre(t *testing.T) {
	for _, s := range []string{"", "plain-1.2/x:y@z", "a b", "it's", "$(id);`id`|&\\\"*", "~root", "-n", "a\nb"} {
		out, err := exec.Command("sh", "-c", "printf %s "+text.Word(s)).Output()
		if err != nil || string(out) != s && s != "-n" {
			t.Errorf("%q arrives as %q, %v", s, out, err)
		}
	}
	if got := text.Word("host/debian:13"); got != "host/debian:13" {
		t.Errorf("%s is quoted without need", got)
	}
}

func FuzzLine(f *testing.F) {
	for _, s := range []string{"a", "\x1b]0;x\x07", "\u202e", "\xff\xfe", "a\nb", "\ufffd", strings.Repeat("\u200b", 3)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		shown := text.Line(s)
		if !utf8.ValidString(shown) || text.Line(shown) != shown || strings.ContainsAny(shown, "\x1b\r\n\u202e\u200b") {
			t.Errorf("%q is shown as %q", s, shown)
		}
	})
}

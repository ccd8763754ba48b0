package limit_test

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/btw-img/btw-img/publish/limit"
)

func TestJSONThatTakesTooMuchIsNotDecoded(t *testing.T) {
	for name, tc := range map[string]struct{ content, want string }{
		"deep":                   {strings.Repeat("[", 101) + strings.Repeat("]", 101), "nested elements of JSON"},
		"deep enough":            {strings.Repeat("[", 100) + strings.Repeat("]", 100), ""},
		"many small elements":    {"[" + strings.Repeat("{},", 20000) + "{}]", "elements of JSON"},
		"few small elements":     {"[" + strings.Repeat("{},", 4000) + "{}]", ""},
		"brackets within a text": {`["` + strings.Repeat(`[{,\"`, 10000) + `"]`, ""},
	} {
		var into any
		err := limit.Decode([]byte(tc.content), &into)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFilesAreReadUpToTheirLimit(t *testing.T) {
	var fsys fs.FS = fstest.MapFS{"file": {Data: []byte("12345")}}
	if content, err := limit.ReadFile(fsys, "file", 5); err != nil || string(content) != "12345" {
		t.Errorf("%q, %v", content, err)
	}
	if _, err := limit.ReadFile(fsys, "file", 4); err == nil || !strings.Contains(err.Error(), "the limit is 4") {
		t.Errorf("%v", err)
	}
}

func TestBudgetsAreForAllThatIsHeld(t *testing.T) {
	var held limit.Budget
	if err := held.Take("one", limit.Metadata); err != nil {
		t.Error(err)
	}
	if err := held.Take("another", 1); err == nil || !strings.Contains(err.Error(), "with another") {
		t.Errorf("%v", err)
	}
}

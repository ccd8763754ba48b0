package orchestrator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/text"
)

// Differences is what a plan builds otherwise than the record says: keys of the definition,
// and files and roles that it names. What the record does not tell is not compared.
func (m Manifest) Differences(ctx context.Context, plan Plan) []string {
	var all []string
	recorded, now := asJSONHasIt(m.Definition), asJSONHasIt(plan.Definition.Redacted())
	differing("", recorded, now, &all)
	digests := inputDigests(ctx, plan)
	for _, name := range slices.Sorted(maps.Keys(m.Inputs)) {
		if name != "definition" && m.Inputs[name] != digests[name] {
			all = append(all, text.Line(name))
		}
	}
	return atMost(all)
}

// asJSONHasIt is a value as JSON has it, in general types.
func asJSONHasIt(value any) (general any) {
	content, err := json.Marshal(value)
	if err == nil {
		decoder := json.NewDecoder(bytes.NewReader(content))
		decoder.UseNumber()
		err = decoder.Decode(&general)
	}
	if err != nil {
		return fmt.Sprint(err)
	}
	return general
}

// notMade is the keys of entries that change nothing of what is made.
var notMade = []string{"origin", "description"}

// differing adds the keys whose values differ.
func differing(path string, a, b any, to *[]string) {
	switch a := a.(type) {
	case map[string]any:
		if b, same := b.(map[string]any); same {
			keys := map[string]bool{}
			for key := range a {
				keys[key] = true
			}
			for key := range b {
				keys[key] = true
			}
			for _, key := range slices.Sorted(maps.Keys(keys)) {
				if !slices.Contains(notMade, strings.ToLower(key)) {
					differing(strings.TrimPrefix(path+"."+key, "."), a[key], b[key], to)
				}
			}
			return
		}
	case []any:
		if b, same := b.([]any); same && len(a) == len(b) {
			for i := range a {
				differing(fmt.Sprintf("%s[%d]", path, i), a[i], b[i], to)
			}
			return
		}
	}
	if fmt.Sprint(a) != fmt.Sprint(b) {
		*to = append(*to, text.Line(path))
	}
}

package host

import (
	"slices"
	"strings"
	"testing"
)

func TestSubordinateIDsFillAJail(t *testing.T) {
	for name, tc := range map[string]struct {
		file    string
		want    string
		missing int
		free    int
	}{
		"as Debian gives them": {"alice:100000:65536\nbob:165536:65536\n", "0 1000 1 1 100000 65535", 0, 231072},
		"by number":            {"1000:200000:65535\n", "0 1000 1 1 200000 65535", 0, 265535},
		"in pieces":            {"alice:100000:40000\n# comment\nalice:300000:40000\n", "0 1000 1 1 100000 40000 40001 300000 25535", 0, 340000},
		"one too few":          {"alice:100000:65534\n", "0 1000 1 1 100000 65534", 1, 165534},
		"another's":            {"alicia:100000:65536\n", "0 1000 1", 65535, 165536},
		"none":                 {"", "0 1000 1", 65535, 100000},
		"no numbers":           {"alice:x:65536\nalice:100000:-1\nalice:100000\n", "0 1000 1", 65535, 100000},
	} {
		t.Run(name, func(t *testing.T) {
			ranges, free := subordinates(tc.file, "1000", "alice")
			got, missing := mapArguments(1000, ranges)
			if !slices.Equal(got, strings.Fields(tc.want)) || missing != tc.missing || free != tc.free {
				t.Errorf("%q with %d missing, free from %d on", got, missing, free)
			}
		})
	}
}

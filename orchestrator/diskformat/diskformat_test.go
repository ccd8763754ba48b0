package diskformat

import (
	"slices"
	"strings"
	"testing"
)

func TestEachRowIsWhole(t *testing.T) {
	var names, suffixes []string
	for _, f := range table {
		if f.Name == "" || f.QEMU == "" || (f.magics == nil) != (f.Name == Raw) {
			t.Errorf("%+v", f)
		}
		if got := Named(f.Name); got.QEMU != f.QEMU {
			t.Errorf("%s is found as %s", f.Name, got.Name)
		}
		if !f.Written && f.Options != nil {
			t.Errorf("%s has options for what is never written", f.Name)
		}
		if f.Backing && !slices.ContainsFunc(f.magics, func(m magic) bool { return m.check != nil }) {
			t.Errorf("nothing checks whether an image depends on another: %s", f.Name)
		}
		names, suffixes = append(names, f.Name), append(suffixes, "."+f.Name)
	}
	for _, list := range [][]string{names, Suffixes()} {
		slices.Sort(list)
		if len(slices.Compact(slices.Clone(list))) != len(list) {
			t.Errorf("twice in %s", list)
		}
	}
	for _, suffix := range append(suffixes, ".img") {
		if !slices.Contains(Suffixes(), suffix) {
			t.Errorf("no suffix %s", suffix)
		}
	}
	if written := Written(); !slices.Contains(written, Default) || Named("vpc").Name != "" {
		t.Errorf("written: %s", written)
	}
}

func TestTheRefusedKindsAreNoFormats(t *testing.T) {
	for _, kind := range refused {
		head := strings.Repeat("\x00", kind.magic.offset) + kind.magic.text + strings.Repeat("\x00", 512)
		if format, err := Identify(strings.NewReader(head), int64(len(head))); err == nil || !strings.Contains(err.Error(), "("+kind.name+")") {
			t.Errorf("%s: %s, %v", kind.name, format, err)
		}
	}
}

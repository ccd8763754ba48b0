package store

import (
	"slices"
	"strings"
	"testing"
)

// TestOptionsOfAnOverlayFitAPage has more layers than mount(2) takes.
func TestOptionsOfAnOverlayFitAPage(t *testing.T) {
	dir := t.TempDir()
	m, release, err := overlay(slices.Repeat([]string{dir}, 100), "", "/at")
	if err != nil || strings.Count(m.Data, ":") != 99 {
		t.Errorf("%s: %v", m.Data, err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	if _, _, err := overlay(slices.Repeat([]string{dir}, 300), "", "/at"); err == nil || !strings.Contains(err.Error(), "300 layers") {
		t.Errorf("error %v", err)
	}
}

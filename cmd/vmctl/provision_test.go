package main

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAConnectionIsSharedWhereItsSocketHasAnAddress(t *testing.T) {
	for length := longestShared - 2; length < longestShared+3; length++ {
		folder := "/" + strings.Repeat("a", length-1)
		// Ansible names it by ten digits, and ssh puts a dot and sixteen characters behind that.
		_, err := net.Dial("unix", filepath.Join(folder, strings.Repeat("0", 10)+"."+strings.Repeat("x", 16)))
		fits := err != nil && !strings.Contains(err.Error(), "invalid argument")
		if shared := slices.Contains(sharing(folder), "ANSIBLE_SSH_CONTROL_PATH_DIR="+folder); shared != fits {
			t.Errorf("a folder of %d characters: shared %t; %v", length, shared, err)
		}
	}
}

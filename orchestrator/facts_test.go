package orchestrator

import (
	"testing"
)

func TestFactsAreOfTheDefinition(t *testing.T) {
	p := plan(t, "debian", "test.cpus=3", "test.memory=2G", "hostname=web.example.org", "facts.form_factor=Desktop")
	facts := p.facts(0)
	for name, want := range map[string]any{
		"processor_vcpus": 3, "memtotal_mb": int64(2048), "hostname": "web", "fqdn": "web.example.org", "domain": "example.org", "form_factor": "Desktop",
	} {
		if facts[name] != want {
			t.Errorf("%s: %v (%T), want %v", name, facts[name], facts[name], want)
		}
	}
	mounts := facts["mounts"].([]any)
	root := mounts[len(mounts)-1].(map[string]any)
	if root["mount"] != "/" || root["fstype"] != "ext4" || root["size_total"].(int64) < 1<<30 {
		t.Errorf("mounts: %v", mounts)
	}
}

func TestAnEntryIsMadeAnewForFactsThatItReads(t *testing.T) {
	p := project{
		"install.d/base.yml":      "source: {bootstrap: {suite: trixie}}\nfacts: {memtotal_mb: 5}\ninstall: [{packages: [linux-image-amd64]}, {roles: [reads]}, {roles: [does]}]\n",
		"roles/reads/tasks/x.yml": "{{ ansible_memtotal_mb }}\n", "roles/does/tasks/main.yml": "[]\n",
	}
	before, after := p.parts(t, "base"), p.with("install.d/base.yml", "memtotal_mb: 5", "memtotal_mb: 6").parts(t, "base")
	for i, changed := range []bool{true, false} {
		if (before.Layers[0][i] != after.Layers[0][i]) != changed {
			t.Errorf("entry %d: %v, %v", i, before.Layers[0][i], after.Layers[0][i])
		}
	}
	all := p.with("roles/does/tasks/main.yml", "[]", "{{ ansible_facts }}")
	if all.parts(t, "base").Layers[0][1] == all.with("install.d/base.yml", "memtotal_mb: 5", "memtotal_mb: 6").parts(t, "base").Layers[0][1] {
		t.Error("an entry that reads all facts is not made anew")
	}
}

package orchestrator

import (
	"testing"

	"github.com/google/go-cmp/cmp"
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
	if dns := facts["dns"]; !cmp.Equal(dns, map[string]any{"nameservers": []string{"10.0.2.3"}}) {
		t.Errorf("dns: %v", dns)
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

func TestWhichFactsEntriesName(t *testing.T) {
	p := project{
		"install.d/base.yml": "source: {bootstrap: {suite: trixie}}\nvars: {zone: \"{{ ansible_date_time.tz }}\"}\ninstall:\n- packages: [linux-image-amd64]\n- roles: [reads]\n- roles: [all]\n- roles: [acme.tools.motd]\n- roles: [none]\n", "roles/none/tasks/main.yml": "[]\n",
		"commands.d/base.yml":           "commands: [{run: 'echo {{ zone }} {{ ansible_managed }}'}, {run: 'true'}]\n",
		"roles/reads/tasks/main.yml":    "- debug: {msg: \"{{ ansible_python_interpreter }} {{ ansible_facts['os_family'] }}\"}\n  when: ansible_facts.distribution_major_version is version('13', '>=')\n",
		"roles/reads/templates/conf.j2": "{{ ansible_processor_vcpus }} {{ ansible_facts[\"ansible_mounts\"] }}\n", "roles/all/tasks/main.yml": "- debug: {var: ansible_facts}\n",
	}
	folder := p.write(t)
	got := planIn(t, folder, "base").factsRead(partsIn(t, folder, "base", someTools))
	want := map[string][]string{
		"install.d/base.yml:5": {"distribution_major_version", "mounts", "os_family", "processor_vcpus"}, "install.d/base.yml:6": {"*"},
		"install.d/base.yml:7": {"*", "date_time", "distribution_major_version", "mounts", "os_family", "processor_vcpus"}, "commands.d/base.yml:1": {"date_time"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

package definition_test

import (
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/definition"
)

func TestAMistakeIsToldWithoutWhatFollowsFromIt(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  []string // the beginnings of all lines
	}{
		"an unknown parent":             {map[string]string{"install.d/x.yml": "extends: debain\ndisk: {size: 300M}\nfirmware: [bios]"}, []string{`install.d/x.yml:1: extends: there is no build "debain"`}},
		"a misspelt extends":            {map[string]string{"install.d/x.yml": "extend: debian"}, []string{`install.d/x.yml:1: unknown key "extend": did you mean "extends"?`}},
		"an extends without value":      {map[string]string{"install.d/x.yml": "extends:"}, []string{"install.d/x.yml:1: extends: has no value"}},
		"an extends that is a list":     {map[string]string{"install.d/x.yml": "extends: [debian]"}, []string{"install.d/x.yml:1: extends: expected a single value"}},
		"a circle":                      {map[string]string{"install.d/x.yml": "extends: x"}, []string{"install.d/x.yml:1: extends goes in a circle"}},
		"a parent that is no YAML":      {map[string]string{"install.d/x.yml": "extends: p", "install.d/p.yml": "a: ["}, []string{"install.d/p.yml:"}},
		"an empty parent":               {map[string]string{"install.d/x.yml": "extends: p", "install.d/p.yml": ""}, []string{"install.d/p.yml:1: the file is empty"}},
		"a parent without a parent":     {map[string]string{"install.d/x.yml": "extends: p", "install.d/p.yml": "extends: q"}, []string{`install.d/p.yml:1: extends: there is no build "q"`}},
		"a list":                        {map[string]string{"install.d/x.yml": "- a"}, []string{"install.d/x.yml:1: the file expected keys with values"}},
		"a broken drop-in":              {map[string]string{"install.d/x.yml": "description: a", "install.d/x/1.yml": "source: {"}, []string{"install.d/x/1.yml:"}},
		"a misspelt source":             {map[string]string{"install.d/x.yml": "sorce: {bootstrap: {suite: sid}}"}, []string{`install.d/x.yml:1: unknown key "sorce"`}},
		"a misspelt bootstrap":          {map[string]string{"install.d/x.yml": "source: {bootstap: {suite: sid}}"}, []string{`install.d/x.yml:1: unknown key "source.bootstap"`}},
		"a misspelt suite":              {map[string]string{"install.d/x.yml": "source: {bootstrap: {siute: sid}}"}, []string{`install.d/x.yml:1: unknown key "source.bootstrap.siute"`}},
		"a misspelt path":               {map[string]string{"install.d/x.yml": "source: {tarball: {paht: a}}"}, []string{`install.d/x.yml:1: unknown key "source.tarball.paht"`}},
		"a tarball without digest":      {map[string]string{"install.d/x.yml": "source: {tarball: {url: 'https://h/a.tar'}}"}, []string{`install.d/x.yml:1: source.tarball: key "sha256" is missing`}},
		"a tarball of nowhere":          {map[string]string{"install.d/x.yml": "source: {tarball: {sha256: " + strings.Repeat("a", 64) + "}}"}, []string{`install.d/x.yml:1: source.tarball: neither path nor url is given`}},
		"a digest that is none":         {map[string]string{"install.d/x.yml": "source: {tarball: {url: 'https://h/a.tar', sha256: ABC}}"}, []string{`install.d/x.yml:1: source.tarball.sha256: "ABC" is no digest`}},
		"an address that is none":       {map[string]string{"install.d/x.yml": "source: {tarball: {url: 'file:///a.tar', sha256: " + strings.Repeat("a", 64) + "}}"}, []string{`install.d/x.yml:1: source.tarball.url: "file:///a.tar" is no address of a file`}},
		"an image that is none":         {map[string]string{"install.d/x.yml": "source: {oci: {image: 'docker://h/r:t'}}"}, []string{`install.d/x.yml:1: source.oci.image: "docker://h/r:t" is no image`}},
		"an image without a name":       {map[string]string{"install.d/x.yml": "source: {oci: {}}"}, []string{`install.d/x.yml:1: source.oci: key "image" is missing`}},
		"an image and a tarball":        {map[string]string{"install.d/x.yml": "source: {oci: {image: h.example/r}, tarball: {path: x.yml}}"}, []string{`install.d/x.yml:1: source: oci and tarball exclude each other`}},
		"a cloud image of nowhere":      {map[string]string{"install.d/x.yml": "source: {cloudimage: {sha512: " + strings.Repeat("a", 128) + "}}"}, []string{`install.d/x.yml:1: source.cloudimage: neither suite nor url nor file is given`}},
		"a cloud image of two places":   {map[string]string{"install.d/x.yml": "source: {cloudimage: {suite: trixie, url: 'https://h/x'}}"}, []string{`install.d/x.yml:1: source.cloudimage: suite and url exclude each other`}},
		"a flavour of any image":        {map[string]string{"install.d/x.yml": "source: {cloudimage: {url: 'https://h/x', flavour: generic}}"}, []string{`install.d/x.yml:1: source.cloudimage.flavour is for official images`}},
		"an unknown flavour":            {map[string]string{"install.d/x.yml": "source: {cloudimage: {suite: trixie, flavour: ec2}}"}, []string{`install.d/x.yml:1: source.cloudimage.flavour: unknown "ec2"`}},
		"another architecture":          {map[string]string{"install.d/x.yml": "source: {cloudimage: {suite: trixie, arch: riscv64}}"}, []string{`install.d/x.yml:1: source.cloudimage.arch: "riscv64" cannot be built for`}},
		"a mirror with a password":      {map[string]string{"install.d/x.yml": "source: {cloudimage: {suite: trixie, mirror: 'https://u:p@h/'}}"}, []string{`install.d/x.yml:1: source.cloudimage.mirror: "https://h/" holds a password`}},
		"an image that is not there":    {map[string]string{"install.d/x.yml": "source: {cloudimage: {file: x.img}}"}, []string{`install.d/x.yml:1: there is no file install.d/x.img`}},
		"an installer of nothing":       {map[string]string{"install.d/x.yml": "source: {installer: {disk: 4G}}"}, []string{"install.d/x.yml:1: source.installer: neither suite nor kernel is given"}},
		"two installers":                {map[string]string{"install.d/x.yml": "source: {installer: {suite: trixie, kernel: {url: 'https://h/k', sha256: " + strings.Repeat("a", 64) + "}}}"}, []string{"install.d/x.yml:1: source.installer: suite has its own kernel and initrd"}},
		"a suite without installer":     {map[string]string{"install.d/x.yml": "source: {installer: {suite: sid}}"}, []string{`install.d/x.yml:1: source.installer.suite: no installer of "sid" is known`}},
		"a kernel alone":                {map[string]string{"install.d/x.yml": "source:\n  installer:\n    kernel: {file: linux}", "install.d/linux": "x"}, []string{"install.d/x.yml:3: source.installer: kernel and initrd belong together"}},
		"a kernel without digest":       {map[string]string{"install.d/x.yml": "source:\n  installer:\n    kernel: {url: 'https://h/k'}\n    initrd: {file: gone}"}, []string{`install.d/x.yml:3: source.installer.kernel: key "sha256" is missing`, "install.d/x.yml:4: there is no file install.d/gone"}},
		"an initrd of two places":       {map[string]string{"install.d/x.yml": "source:\n  installer:\n    kernel: {file: x.yml}\n    initrd: {file: x.yml, url: 'https://h/k'}"}, []string{"install.d/x.yml:4: source.installer.initrd: file and url exclude each other"}},
		"a misspelt kernel":             {map[string]string{"install.d/x.yml": "source: {installer: {kernel: {fiel: x.yml}, initrd: {file: x.yml}}}"}, []string{`install.d/x.yml:1: unknown key "source.installer.kernel.fiel"`}},
		"a mirror of any installer":     {map[string]string{"install.d/x.yml": "source: {installer: {kernel: {file: x.yml}, initrd: {file: x.yml}, mirror: 'https://h/'}}"}, []string{"install.d/x.yml:1: source.installer.mirror is for Debian's installer"}},
		"answers that are not there":    {map[string]string{"install.d/x.yml": "source:\n  installer:\n    suite: trixie\n    answers: a.j2"}, []string{"install.d/x.yml:4: there is no file install.d/a.j2"}},
		"answers that read too much":    {map[string]string{"install.d/x.yml": "source: {installer: {suite: trixie, answers: a.j2}}", "install.d/a.j2": "a\n{{ vars.a }}\n"}, []string{`install.d/a.j2:2: "vars.a" reads`}},
		"a secret that all could see":   {map[string]string{"install.d/x.yml": "secrets: {token: {env: TOKEN}}\nsource:\n  installer:\n    suite: trixie\n    append: 'key={{ token | upper }} a={{ a.token }}'"}, []string{"install.d/x.yml:5: source.installer.append: the command line can be seen by all users of the builder, and token is a secret"}},
		"a vault that all could see":    {map[string]string{"install.d/x.yml": "vars:\n  token: !vault |\n    $ANSIBLE_VAULT;1.1;AES256\n    3132\n  by_way: ['{{ token }}']\nsource:\n  installer:\n    suite: trixie\n    append: 'key={{ by_way[0] }} a={{ by.token }}'"}, []string{"install.d/x.yml:9: source.installer.append: the command line can be seen by all users of the builder, and token is encrypted with ansible-vault"}},
		"a secret by a lookup":          {map[string]string{"install.d/x.yml": "secrets: {token: {env: TOKEN}}\nsource: {installer: {suite: trixie, append: \"{{ lookup('ansible.builtin.vars', 'token') }}\"}}"}, []string{"install.d/x.yml:2: source.installer.append: the command line can be seen by all users of the builder, and token is a secret"}},
		"a secret by way of a variable": {map[string]string{"install.d/x.yml": "secrets: {token: {env: TOKEN}}\nvars: {key: '{{ token }}'}\nsource: {installer: {suite: trixie, append: '{{ key }}'}}"}, []string{"install.d/x.yml:3: source.installer.append: the command line can be seen by all users of the builder, and token is a secret"}},
		"an installer without room":     {map[string]string{"install.d/x.yml": "source:\n  installer:\n    suite: trixie\n    disk: 1M\n    memory: 8M\n    timeout: 0s"}, []string{"install.d/x.yml:4: source.installer.disk: 1M is too little", "install.d/x.yml:5: source.installer.memory: 8M is too little", `install.d/x.yml:6: source.installer.timeout: "0s" is not a positive time`}},
		"a source that is a value":      {map[string]string{"install.d/x.yml": "source: 5"}, []string{"install.d/x.yml:1: source: expected keys"}},
		"a misspelt disk":               {map[string]string{"install.d/x.yml": base + "dsik: {layout: efi}\nfirmware: [bios, uefi]\ndisk: {layout: efi}"}, []string{`install.d/x.yml:2: unknown key "dsik"`}},
		"a misspelt size":               {map[string]string{"install.d/x.yml": base + "disk: {siez: 9G, layout: [{mount: /, filesystem: ext4, size: 8G}]}\nfirmware: []"}, []string{`install.d/x.yml:2: unknown key "disk.siez"`}},
		"a size that is none":           {map[string]string{"install.d/x.yml": base + "disk: {size: big, layout: [{mount: /, filesystem: ext4, size: 8G}, {type: bios}]}"}, []string{`install.d/x.yml:2: disk.size: "big"`}},
		"an unknown layout":             {map[string]string{"install.d/x.yml": base + "disk: {layout: efy}\nfirmware: [uefi]"}, []string{`install.d/x.yml:2: disk.layout: unknown "efy"`}},
		"an unknown type":               {map[string]string{"install.d/x.yml": base + "disk: {layout: [{type: boot}, {mount: /, filesystem: ext4}]}\nfirmware: [bios]"}, []string{`install.d/x.yml:2: disk.layout: unknown type "boot"`}},
		"a tree that cannot be read":    {map[string]string{"install.d/x.yml": base + "outputs: [qcow2, tar]\ndisk: {size: 4G, layout: [{type: bios}, {mount: /boot, filesystem: ext4, size: 512M}, {mount: /, filesystem: xfs}]}\nfirmware: [bios]"}, []string{`install.d/x.yml:2: outputs: tar holds the files of the tree, and vmctl does not read those of xfs (/)`}},
		"a disk that boots nowhere":     {map[string]string{"install.d/x.yml": base + "outputs: [oci, raw, kernel]\ndisk: {layout: none}"}, []string{"install.d/x.yml:2: outputs: kernel is of a machine", "install.d/x.yml:2: outputs: raw is of a machine, and no firmware"}},
		"the default without a boot":    {map[string]string{"install.d/x.yml": base + "disk: {layout: [{mount: /, filesystem: ext4}]}"}, []string{"install.d/x.yml:1: outputs: qcow2 is of a machine"}},
		"an unknown format":             {map[string]string{"install.d/x.yml": base + "outputs: [tra]"}, []string{`install.d/x.yml:2: outputs: unknown "tra"`}},
		"a relative mount point":        {map[string]string{"install.d/x.yml": base + "disk: {layout: [{mount: boot/efi, filesystem: vfat, size: 99M}, {mount: /, filesystem: ext4}]}\nfirmware: [uefi]"}, []string{`install.d/x.yml:2: disk.layout: "boot/efi" is no mount point`}},
		"misspelt packages":             {map[string]string{"install.d/x.yml": base + "install: [{pakages: [a]}]"}, []string{`install.d/x.yml:2: unknown key "install[0].pakages"`}},
		"misspelt services":             {map[string]string{"install.d/x.yml": base + "install: [{services: {enabld: [a]}}]"}, []string{`install.d/x.yml:2: unknown key "install[0].services.enabld"`}},
		"a misspelt content":            {map[string]string{"install.d/x.yml": base + "install: [{files: [{path: /a, contnet: a}]}]"}, []string{`install.d/x.yml:2: unknown key "install[0].files[0].contnet"`}},
		"a misspelt required key":       {map[string]string{"install.d/x.yml": base + "install: [{files: [{paht: /a, content: a}]}]"}, []string{`install.d/x.yml:2: unknown key "install[0].files[0].paht"`}},
		"misspelt components":           {map[string]string{"install.d/x.yml": base + "install: [{repositories: [{name: r, uris: ['http://h/'], suites: [s], componets: [c], key: '-----BEGIN PGP PUBLIC KEY BLOCK-----'}]}]"}, []string{`install.d/x.yml:2: unknown key "install[0].repositories[0].componets"`}},
		"a misspelt command":            {map[string]string{"install.d/x.yml": base, "commands.d/x.yml": "commands: [{rnu: a}]"}, []string{`commands.d/x.yml:1: unknown key "commands[0].rnu"`}},
		"two mistakes of one build":     {map[string]string{"install.d/x.yml": "extends: debain\nhostname: -a-\ndisk: {layout: [{mount: /, filesystem: zfs}]}"}, []string{"install.d/x.yml:1: extends:", `install.d/x.yml:2: hostname: "-a-"`, `install.d/x.yml:3: disk.layout: unknown file system "zfs"`}},
		"a broken entry":                {map[string]string{"install.d/x.yml": base + "hostname: -a-\ninstall: [{packages: 5}]"}, []string{`install.d/x.yml:2: hostname: "-a-"`, "install.d/x.yml:3: install[0].packages: expected a list"}},
		"a playbook that is not there":  {map[string]string{"install.d/x.yml": base + "install: [{playbooks: [site.yml]}]"}, []string{"install.d/x.yml:2: playbooks: there is no playbooks/site.yml"}},
		"a playbook that leads out":     {map[string]string{"install.d/x.yml": base + "install: [{playbooks: [../x.yml]}]", "x.yml": "[]"}, []string{"install.d/x.yml:2: playbooks: there is no"}},
		"a playbook for other hosts":    {map[string]string{"install.d/x.yml": base + "install: [{playbooks: [site.yml]}]", "playbooks/site.yml": "- hosts: all\n- hosts: web\n"}, []string{`playbooks/site.yml:2: the play is for "web"`}},
		"a playbook that is none":       {map[string]string{"install.d/x.yml": base + "install: [{playbooks: [site.yml]}]", "playbooks/site.yml": "hosts: all"}, []string{"playbooks/site.yml: the playbook is no list of plays"}},
		"roles with other tags":         {map[string]string{"install.d/x.yml": base + "install: [{roles: [{name: a, tags: [t]}, b]}]", "roles/a/tasks/main.yml": "[]", "roles/b/tasks/main.yml": "[]"}, []string{"install.d/x.yml:2: roles: tags are those of all roles"}},
		"playbooks beside tags":         {map[string]string{"install.d/x.yml": base + "install: [{roles: [{name: a, tags: [t]}],\n  playbooks: [p.yml]}]", "roles/a/tasks/main.yml": "[]", "playbooks/p.yml": "- hosts: all\n"}, []string{"install.d/x.yml:3: playbooks: the tags of roles choose among the tasks of the whole entry"}},
		"a role without a name":         {map[string]string{"install.d/x.yml": base + "install: [{roles: [{vars: {a: b}}]}]"}, []string{`install.d/x.yml:2: install[0].roles[0]: key "name" is missing`}},
		"an unknown python":             {map[string]string{"install.d/x.yml": base + "python: gone"}, []string{`install.d/x.yml:2: python: unknown "gone": known: keep, transient`}},
		"a tarball's python":            {map[string]string{"install.d/x.yml": "source: {tarball: {path: a.tar}}\npython: transient", "install.d/a.tar": ""}, []string{"install.d/x.yml:2: python: a tarball has its own"}},
		"a fact by its variable's name": {map[string]string{"install.d/x.yml": base + "facts: {ansible_memtotal_mb: 5}"}, []string{"install.d/x.yml:2: facts: ansible_memtotal_mb begins with ansible_"}},
	} {
		t.Run(name, func(t *testing.T) { beginWith(t, mistakes(tc.files), tc.want) })
	}
}

// Paths of container images start where those of other files do.
func TestImagesOfTheFileSystem(t *testing.T) {
	for written, want := range map[string]string{
		"oci:images/debian:13": "oci:install.d/images/debian:13", "oci-archive:../debian.tar": "oci-archive:debian.tar", "oci:/srv/a:b/": "oci:/srv/a:b/",
		"h.example:5000/a/b:13": "h.example:5000/a/b:13", "h.example/a@sha256:" + strings.Repeat("a", 64): "h.example/a@sha256:" + strings.Repeat("a", 64), "oci:a:b/": "oci:install.d/a:b/",
	} {
		d := load(t, map[string]string{"install.d/x.yml": "source: {oci: {image: '" + written + "'}}"}, "x")
		if d.Source.OCI.Image != want {
			t.Errorf("%s: %s, want %s", written, d.Source.OCI.Image, want)
		}
	}
}

// What is reported goes to screens and logs of CI servers.
func TestMistakesQuoteNoSecrets(t *testing.T) {
	for _, tc := range []struct {
		install  string
		settings []string
	}{
		{base + "", []string{"vars.password:hunter2"}},
		{base + "install: [{users: [{name: u, password_hash: hunter2}]}]", nil},
		{base + "install: [{users: [{name: u, ssh_keys: ['-----BEGIN OPENSSH PRIVATE KEY----- hunter2']}]}]", nil},
		{base + "install: [{debconf: [{package: p, question: q, type: password, value: [hunter2]}]}]", nil},
		{base + "install: [{files: [{path: /a, content: {hunter2: hunter3}}]}]", nil},
		{"source: {bootstrap: {suite: sid, mirror: 'http://u:hunter2@h/'}}", nil},
		{"source: {bootstrap: {suite: sid, mirror: 'http://h/?hunter2'}}", nil},
		{"source: {bootstrap: {suite: sid, mirror: 'http://h/ [a]?hunter2'}}", nil},
		{"source: {bootstrap: {suite: sid, mirror: 'ftp://h/#hunter2'}}", nil},
		{"source: {bootstrap: {suite: sid, mirror: 'https://u:hun/ter2@h/'}}", nil},
		{base + "vars: {password: 'hunter2 {{ vars.site }}'}", nil},
		{base + "vars: {password: {a: hunter2, a: hunter2}}", nil},
		{base + "vars: {password: 'hunter2}", nil},
		{base + "vars: {password: hunter2: hunter2}", nil},
	} {
		found := strings.Join(mistakes(map[string]string{"install.d/x.yml": tc.install}, tc.settings...), "\n")
		if found == "" || strings.Contains(found, "hunter") || strings.Contains(found, "ter2") {
			t.Errorf("%s %s: %q", tc.install, tc.settings, found)
		}
	}
}

func TestABuildHasOneNameEverywhere(t *testing.T) {
	long := strings.Repeat("a", 64)
	for _, name := range []string{"Bad_Name", "a..b", "-a", long, "oci", "x.failed"} {
		l := library(map[string]string{"install.d/" + name + ".yml": base, "install.d/x.yml": "extends: " + name})
		for _, build := range []string{name, "x"} {
			_, err := l.Load(build, nil)
			if want := "install.d/" + name + `.yml: "` + name + `" is no name for a build: `; err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v, want %s", build, err, want)
			}
		}
		if definition.CheckName(name) == nil {
			t.Errorf("CheckName takes %q", name)
		}
	}
	if _, err := library(map[string]string{"x.yml": base}).Load("../x", nil); err == nil || !strings.Contains(err.Error(), `"../x" is no name for a build`) {
		t.Errorf("a file outside of install.d: %v", err)
	}
}

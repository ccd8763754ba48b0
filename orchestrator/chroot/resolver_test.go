package chroot

import (
	"testing"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// What programs write into the file goes into the image, and nothing of the builder's does.
func TestNameServersThatAreWrittenThroughTheLink(t *testing.T) {
	const hosts = "# ours\nnameserver 10.0.0.1\n"
	for found, want := range map[string]string{
		hosts: "", "": "", "nameserver 192.0.2.1\n": "nameserver 192.0.2.1\n",
		hosts + "options edns0\n":              "",                                     // who has no name server wants the image's
		hosts + "\nnameserver 192.0.2.1\n":     "nameserver 192.0.2.1\n",               // was added
		"nameserver 10.0.0.1\noptions edns0\n": "nameserver 10.0.0.1\noptions edns0\n", // is its own, although the builder has it, too
	} {
		tree := host.Tree(t.TempDir())
		if err := tree.Write("/run/vmctl-resolv.conf", []byte(found), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := tree.Symlink(debian.NoResolver, debian.ResolvConf); err != nil {
			t.Fatal(err)
		}
		if err := keepResolver(tree, []byte(hosts)); err != nil {
			t.Fatal(err)
		}
		if isLink := tree.Readlink(debian.ResolvConf) != ""; isLink != (want == "") {
			t.Errorf("%q: a link is left: %t", found, isLink)
		}
		if content, _ := tree.Read(debian.ResolvConf); want != "" && string(content) != want {
			t.Errorf("%q has become %q", found, content)
		}
	}
}

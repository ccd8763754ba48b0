package machine

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/btw-img/btw-img/orchestrator/seed"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Guest is what an image understands, as far as is known. Where nothing is known, all
// that it might understand is handed to it.
type Guest struct {
	Known     bool `json:"known"`
	Systemd   int  `json:"systemd"` // version
	CloudInit bool `json:"cloud_init"`
	Seeded    bool `json:"seeded"` // has a seed of its own, whose user data that of a disk would replace
	SSH       bool `json:"ssh"`    // has a server
}

// Since when systemd takes what from a machine's SMBIOS (systemd.system-credentials(7)).
const (
	systemdCredentials = 252 // authorized_keys and lines of tmpfiles.d
	systemdFstab       = 253 // lines of fstab
)

// credentials says whether the guest takes, or may take, system credentials.
func (g Guest) credentials() bool { return !g.Known || g.Systemd >= systemdCredentials }

// noCloud says whether the guest is handed a seed for cloud-init's NoCloud.
func (g Guest) noCloud() bool { return !g.Known || g.CloudInit && !g.ownSeed() }

// ownSeed says whether the guest obeys the seed that it has, and is told by credentials who
// may log in.
func (g Guest) ownSeed() bool { return g.Seeded && g.credentials() }

// NeedsSeedDisk says whether a disk must be made for the guest.
func (g Guest) NeedsSeedDisk() bool { return g.noCloud() }

// Open says whether somebody can log in with the key that is made for the machine.
func (g Guest) Open() bool { return !g.Known || g.SSH && (g.credentials() || g.CloudInit) }

// Shares says whether the guest mounts the shared folder.
func (g Guest) Shares() bool { return !g.Known || g.noCloud() || g.Systemd >= systemdFstab }

// SharedAt is where a guest mounts the shared folder.
const SharedAt = "/mnt/" + vm.ShareTag

// shareOptions do not hold up the boot of a guest whose kernel has no 9P.
const shareOptions = "trans=virtio,version=9p2000.L,msize=262144,nofail"

// keyPair is an ssh key as files have it.
type keyPair struct{ private, public string }

func newKeyPair(comment string) (keyPair, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return keyPair{}, err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return keyPair{}, err
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	return keyPair{string(pem.EncodeToMemory(block)), line + " " + comment + "\n"}, nil
}

// told is what a guest is told: who may log in, and its own host key, so that nobody has
// to trust the first one that answers.
type told struct {
	name  string
	login string  // public key
	host  keyPair // of the guest's ssh server
	share bool
	// passing is for a machine that an image is made of: it gets neither a name nor users.
	passing bool
}

const hostKeyFile = "/etc/ssh/ssh_host_ed25519_key"

// credentials is the seed for systemd, by the credentials' names. Root is logged in at the
// serial console, which only the owner of the machine reaches: there are no passwords.
func (s told) credentials(g Guest) map[string]string {
	c := map[string]string{
		"ssh.authorized_keys.root": s.login,
		"agetty.autologin":         "root",
		"login.noauth":             "yes",
	}
	if !g.Known || g.SSH {
		line := func(kind, path, mode, content string) string {
			return strings.TrimSpace(fmt.Sprintf("%s %s %s root root - %s", kind, path, mode, base64.StdEncoding.EncodeToString([]byte(content)))) + "\n"
		}
		c["tmpfiles.extra"] = line("d", filepath.Dir(hostKeyFile), "0755", "") +
			line("f+~", hostKeyFile, "0600", s.host.private) + line("f+~", hostKeyFile+".pub", "0644", s.host.public)
	}
	if s.share {
		c["fstab.extra"] = fmt.Sprintf("%s %s 9p %s 0 0\n", vm.ShareTag, SharedAt, shareOptions)
	}
	return c
}

// smbios is a credential as a string of the SMBIOS.
func smbios(name, content string) string {
	return "io.systemd.credential.binary:" + name + "=" + base64.StdEncoding.EncodeToString([]byte(content))
}

// userData is the seed for cloud-init.
func (s told) userData() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#cloud-config\ndisable_root: false\nssh_authorized_keys:\n  - %q\n", strings.TrimSpace(s.login))
	b.WriteString("ssh_keys:\n  ed25519_private: |\n")
	for line := range strings.Lines(s.host.private) {
		b.WriteString("    " + line)
	}
	fmt.Fprintf(&b, "  ed25519_public: %q\n", strings.TrimSpace(s.host.public))
	if s.passing {
		b.WriteString("users: []\n")
	}
	if s.share {
		fmt.Fprintf(&b, "mounts:\n  - [%s, %s, 9p, \"%s\", \"0\", \"0\"]\n", vm.ShareTag, SharedAt, shareOptions)
	}
	return b.String()
}

// metaData names the instance, for cloud-init to know a first boot by. Names may look like numbers
// of YAML, which cloud-init takes for no names.
func (s told) metaData(id string) string {
	if s.passing {
		return fmt.Sprintf("instance-id: %q\n", id)
	}
	return fmt.Sprintf("instance-id: %q\nlocal-hostname: %q\n", id, s.name)
}

// write makes the keys and the seed in the folder of a machine.
func (s told) write(dir string, g Guest) error {
	login, err := newKeyPair("vmctl " + s.name)
	if err != nil {
		return err
	}
	if s.host, err = newKeyPair(s.name); err != nil {
		return err
	}
	s.login = login.public
	known := ""
	if g.Known && !g.ownSeed() && (g.credentials() || g.noCloud()) { // of another guest, also where cloud-init makes keys anew, the first key that it shows counts
		known = s.name + " " + s.host.public
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, keyName), []byte(login.private), 0o600),
		os.WriteFile(filepath.Join(dir, keyName+".pub"), []byte(login.public), 0o644),
		os.WriteFile(filepath.Join(dir, knownHostsName), []byte(known), 0o600),
		os.Mkdir(filepath.Join(dir, stringsName), 0o700),
	)
	if g.credentials() {
		// Root's QEMU is another user's, who reads them and cannot enter the folder.
		for name, content := range s.credentials(g) {
			path := filepath.Join(dir, stringsName, name)
			err = errors.Join(err, os.WriteFile(path, []byte(smbios(name, content)), 0o644), os.Chmod(path, 0o644)) // whatever the umask
		}
	}
	if err != nil || !g.noCloud() {
		return err
	}
	return s.writeDisk(dir)
}

// writeDisk makes the disk that cloud-init looks for.
func (s told) writeDisk(dir string) (err error) {
	disk, err := os.OpenFile(filepath.Join(dir, seedDiskName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	files := seed.Seed{seed.UserData: []byte(s.userData()), seed.MetaData: []byte(s.metaData(rand.Text()))}
	return errors.Join(files.Write(disk), disk.Close())
}

package seal

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/debian"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

const (
	hostnameFile = "/etc/hostname"
	hostsFile    = "/etc/hosts"
	fstabFile    = "/etc/fstab"
)

// Identity is what the definition says of the machine and its disk, as /etc tells
// it to the running system.
type Identity struct {
	Hostname string
	FSTab    string
}

// Begin takes what the source says of another machine out of a tree that has no layers
// yet, and the builder's name servers. What layers then find is the same for every build that
// shares them.
func Begin(root string) error {
	tree := host.Tree(root)
	var resolver error
	if tree.Readlink(debian.ResolvConf) == "" {
		resolver = tree.Symlink(debian.NoResolver, debian.ResolvConf)
	}
	return errors.Join(
		resolver,
		tree.Write(hostnameFile, nil, 0o644),
		tree.Write(hostsFile, []byte(localhost), 0o644),
		tree.Write(fstabFile, nil, 0o644),
	)
}

// Settle merges the identity with what the layers made of those files: lines of
// theirs stay, lines that the image needs come back. What contradicts the
// definition is an error.
func (i Identity) Settle(root string) error {
	tree := host.Tree(root)
	for _, file := range []struct {
		path  string
		merge func(found string) (string, error)
	}{
		{hostnameFile, func(found string) (string, error) { return mergeHostname(i.Hostname, found) }},
		{hostsFile, func(found string) (string, error) { return mergeHosts(hosts(i.Hostname), found), nil }},
		{fstabFile, func(found string) (string, error) { return mergeFSTab(i.FSTab, found) }},
	} {
		found, err := tree.Read(file.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if file.path == hostsFile && string(found) == localhost {
			found = nil // as Begin left it
		}
		merged, err := file.merge(string(found))
		if err != nil {
			return err
		}
		if merged == string(found) {
			continue // its mode and owner stay, too
		}
		if err := tree.Write(file.path, []byte(merged), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// SettleFSTab does so with the file systems alone.
func SettleFSTab(root, fstab string) error {
	tree := host.Tree(root)
	found, err := tree.Read(fstabFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	merged, err := mergeFSTab(fstab, string(found))
	if err != nil {
		return err
	}
	return tree.Write(fstabFile, []byte(merged), 0o644)
}

// mergeHostname refuses another name.
func mergeHostname(hostname, found string) (string, error) {
	if found == "" {
		return hostname + "\n", nil
	}
	for _, name := range lineFields(found) {
		if name[0] != hostname {
			return "", fail.New(fail.Build, hostnameFile, "write 'hostname: "+name[0]+"' into the definition instead", "a layer names the machine %q, the definition %q", name[0], hostname)
		}
	}
	return found, nil // one without a name, too: those who get it from the network want that
}

// lineFields is the words of each line that is neither empty nor a comment.
func lineFields(text string) [][]string {
	var lines [][]string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) > 0 {
			lines = append(lines, fields)
		}
	}
	return lines
}

// localhost is the hosts of a machine without a name.
const localhost = "127.0.0.1\tlocalhost\n\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"

func hosts(hostname string) string {
	return strings.Replace(localhost, "\n", "\n"+debian.HostsLine(hostname), 1)
}

// mergeHosts is what was found, after those lines of ours whose address it lacks. The
// machine's own name may have any address.
func mergeHosts(ours, found string) string {
	var missing strings.Builder
	there := lineFields(found)
	for line := range strings.Lines(ours) {
		for _, fields := range lineFields(line) {
			known := slices.ContainsFunc(there, func(other []string) bool {
				if fields[0] == debian.OwnAddress {
					return slices.Contains(other[1:], fields[1])
				}
				return other[0] == fields[0]
			})
			if !known {
				missing.WriteString(line)
			}
		}
	}
	return missing.String() + found
}

// mount is a line of fstab(5).
type mount struct {
	line  string
	spec  string // UUID=… or the like
	point string
}

func mounts(text string) (found []mount) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && !strings.HasPrefix(fields[0], "#") {
			spec := strings.ReplaceAll(fields[0], `"`, "")
			if uuid, ok := strings.CutPrefix(spec, "/dev/disk/by-uuid/"); ok {
				spec = "UUID=" + uuid
			}
			found = append(found, mount{strings.TrimSuffix(line, "\n") + "\n", spec, path.Clean(fields[1])})
		}
	}
	return found
}

// mergeFSTab is what was found, after those lines of ours that it lacks. A line with
// other options for what we mount is the layer's choice; another file system on our
// mount point is refused.
func mergeFSTab(ours, found string) (string, error) {
	var missing strings.Builder
	there := mounts(found)
	for _, own := range mounts(ours) {
		known := false
		for _, other := range there {
			switch {
			case other.spec == own.spec && (other.point == own.point || !strings.HasPrefix(own.point, "/")):
				known = true
			case other.point == own.point && strings.HasPrefix(own.point, "/"):
				return "", fail.New(fail.Build, fstabFile, "mount it elsewhere, or change disk.layout", "a layer mounts %s on %s, where the definition has a partition of the disk", other.spec, other.point)
			}
		}
		if !known {
			missing.WriteString(own.line)
		}
	}
	return missing.String() + found, nil
}

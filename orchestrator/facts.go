package orchestrator

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// facts is what Ansible is told of the machine that is being built, in place of what it
// finds on the builder, by the names that it has for them, while a layer is applied: those
// of the definition, with the machine of the boot test.
func (p Plan) facts(layer int) map[string]any {
	d := p.Definition
	name := hostnameIn(d, layer)
	short, domain, _ := strings.Cut(name, ".")
	facts := map[string]any{
		"hostname": short, "nodename": name, "fqdn": name, "domain": domain,
		"virtualization_type": "kvm", "virtualization_role": "guest", "virtualization_tech_guest": []string{"kvm"}, "virtualization_tech_host": []string{},
		"system_vendor": "QEMU", "product_name": "Standard PC", "form_factor": "Other",
		"apparmor": map[string]any{"status": "enabled"}, "selinux": map[string]any{"status": "disabled"}, "fips": false,
		"is_chroot": true, "service_mgr": "systemd", "uptime_seconds": 0,
		"cmdline": map[string]any{}, "proc_cmdline": map[string]any{}, "lvm": map[string]any{"lvs": map[string]any{}, "vgs": map[string]any{}, "pvs": map[string]any{}},
		"env": map[string]any{"HOME": "/root", "LANG": "C.UTF-8", "LOGNAME": "root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SHELL": "/bin/sh", "USER": "root"},
	}
	maps.Copy(facts, processorFacts(d.Test.CPUs))
	maps.Copy(facts, memoryFacts(int64(d.Test.Memory)>>20))
	maps.Copy(facts, networkFacts())
	maps.Copy(facts, p.diskFacts())
	maps.Copy(facts, d.Facts)
	return facts
}

func processorFacts(cpus int) map[string]any {
	const model = "QEMU Virtual CPU"
	var list []string
	for i := range cpus {
		list = append(list, strconv.Itoa(i), "GenuineIntel", model)
	}
	return map[string]any{
		"processor": list, "processor_count": cpus, "processor_cores": 1, "processor_threads_per_core": 1, "processor_vcpus": cpus, "processor_nproc": cpus,
	}
}

// memoryFacts is of a machine with so many MiB, most of which are free.
func memoryFacts(total int64) map[string]any {
	free := total * 3 / 4
	return map[string]any{
		"memtotal_mb": total, "memfree_mb": free, "swaptotal_mb": 0, "swapfree_mb": 0,
		"memory_mb": map[string]any{
			"real":    map[string]any{"total": total, "free": free, "used": total - free},
			"nocache": map[string]any{"free": free, "used": total - free},
			"swap":    map[string]any{"total": 0, "free": 0, "used": 0, "cached": 0},
		},
	}
}

// networkFacts is of one card, with the address that QEMU's own network gives.
func networkFacts() map[string]any {
	const device, address, mac = "eth0", "10.0.2.15", "52:54:00:12:34:56"
	ipv4 := map[string]any{"address": address, "broadcast": "10.0.2.255", "netmask": "255.255.255.0", "network": "10.0.2.0", "prefix": "24"}
	route := maps.Clone(ipv4)
	maps.Copy(route, map[string]any{"alias": device, "interface": device, "gateway": "10.0.2.2", "macaddress": mac, "mtu": 1500, "type": "ether"})
	return map[string]any{
		"interfaces": []string{"lo", device}, "all_ipv4_addresses": []string{address}, "all_ipv6_addresses": []string{},
		"default_ipv4": route, "default_ipv6": map[string]any{},
		device: map[string]any{"active": true, "device": device, "ipv4": ipv4, "ipv6": []any{}, "macaddress": mac, "mtu": 1500, "promisc": false, "type": "ether"},
		"dns":  map[string]any{"nameservers": []string{"10.0.2.3"}},
		"lo":   map[string]any{"active": true, "device": "lo", "ipv4": map[string]any{"address": "127.0.0.1", "broadcast": "", "netmask": "255.0.0.0", "network": "127.0.0.0", "prefix": "8"}, "mtu": 65536, "promisc": false, "type": "loopback"},
	}
}

// blockSize is that of the file systems, as far as facts tell.
const blockSize = 4096

// diskFacts is of the disk as it is planned, the first of the machine.
func (p Plan) diskFacts() map[string]any {
	const disk = "vda"
	partitions, mounts := map[string]any{}, []any{}
	for _, part := range p.Disk.Partitions {
		name := fmt.Sprintf("%s%d", disk, part.Number)
		partitions[name] = map[string]any{"size": size(part.Size), "sectors": strconv.FormatInt(part.Size/512, 10), "sectorsize": 512, "start": strconv.FormatInt(part.Start/512, 10), "holders": []any{}}
		if !path.IsAbs(part.Mount) {
			continue
		}
		options := part.Options
		if options == "" {
			options = "defaults"
		}
		mounts = append(mounts, map[string]any{
			"mount": part.Mount, "device": "/dev/" + name, "fstype": part.Filesystem, "options": options, "uuid": "N/A", "dump": 0, "passno": 0,
			"size_total": part.Size, "size_available": part.Size / 2, "block_size": blockSize, "block_total": part.Size / blockSize,
			"block_available": part.Size / 2 / blockSize, "block_used": part.Size / 2 / blockSize,
		})
	}
	return map[string]any{
		"devices": map[string]any{disk: map[string]any{"size": size(p.Disk.Size), "sectors": strconv.FormatInt(p.Disk.Size/512, 10), "sectorsize": "512", "removable": "0", "rotational": "1", "virtual": 1, "partitions": partitions, "holders": []any{}}},
		"mounts":  mounts, "device_links": map[string]any{"ids": map[string]any{}, "labels": map[string]any{}, "masters": map[string]any{}, "uuids": map[string]any{}},
	}
}

// size is how Ansible writes the size of a device.
func size(bytes int64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.2f GB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%.2f MB", float64(bytes)/(1<<20))
	}
	return fmt.Sprintf("%.2f KB", float64(bytes)/(1<<10))
}

// readsAnyFact is where the names of the facts that are read are not written.
var readsAnyFact = regexp.MustCompile(`\bansible_facts\s*(?:[^.\[\s]|$)|\bhostvars\b`)

// facts is those that are read.
func (r *reading) facts(all map[string]any) map[string]any {
	text := r.text.String()
	if r.opaque || readsAnyFact.MatchString(text) {
		return all
	}
	used := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if strings.Contains(text, name) {
			used[name] = all[name]
		}
	}
	return used
}

// foundInTrees is the facts that Ansible finds in the tree, and of the time.
var foundInTrees = []string{
	"architecture", "date_time", "distribution", "distribution_file_parsed", "distribution_file_path", "distribution_file_variety", "distribution_major_version",
	"distribution_minor_version", "distribution_release", "distribution_version", "effective_group_id", "effective_user_id", "kernel", "local", "lsb", "machine", "os_family",
	"pkg_mgr", "python", "python_version", "real_group_id", "real_user_id", "selinux_python_present", "system", "user_dir", "user_gecos", "user_gid", "user_id", "user_shell",
	"user_uid", "userspace_architecture", "userspace_bits",
}

// factNames is where the name of a fact is written.
var factNames = regexp.MustCompile(`\bansible_facts\s*(?:\.|\[\s*["'])\s*(?:ansible_)?(\w+)|\bansible_(\w+)`)

const unnamedFacts = "*" // are read, too

// named is the names of the facts that are written in what is read, with spaces between
// them: of the machine's, and of those that Ansible finds.
func (r *reading) named(machine map[string]any) string {
	text, names := r.text.String(), map[string]bool{}
	for _, found := range factNames.FindAllStringSubmatch(text, -1) {
		name := found[1] + found[2]
		if _, known := machine[name]; known || slices.Contains(foundInTrees, name) {
			names[name] = true
		}
	}
	if r.opaque || readsAnyFact.MatchString(text) {
		names[unnamedFacts] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), " ")
}

// factsRead is the names of the facts that are written in entries, by their files and lines.
func (p Plan) factsRead(all parts) map[string][]string {
	read := map[string][]string{}
	for i, layer := range withoutEarly(p.Definition) {
		for j, one := range entriesOf(layer) {
			if names := strings.Fields(all.Layers[i][j].Reads); len(names) > 0 {
				origin := originOf(one)
				read[origin] = slices.Compact(slices.Sorted(slices.Values(append(read[origin], names...)))) // where it was split, twice
			}
		}
	}
	return read
}

package machine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/definition"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Kinds of networks that machines have.
const (
	NetworkOpen     = "user" // QEMU's own, from which the guest reaches what the user does
	NetworkIsolated = "none" // nothing but the forwarded ports
)

// Settings is the machine that an image is started on.
type Settings struct {
	Memory   int64        `json:"memory"` // bytes
	Size     int64        `json:"size"`   // of the disk, in bytes; 0 for that of the image
	CPUs     int          `json:"cpus"`   // under KVM; emulation has one
	Firmware string       `json:"firmware"`
	Ports    []vm.Forward `json:"ports"`
	Network  string       `json:"network"`
	Share    string       `json:"share,omitempty"` // folder of the host
}

// Defaults is the settings where nothing says otherwise.
func Defaults() Settings {
	return Settings{Memory: int64(definition.GiB), CPUs: 2, Firmware: arch.BIOS, Network: NetworkOpen}
}

// ParsePort reads HOST:GUEST, two TCP ports.
func ParsePort(text string) (vm.Forward, error) {
	from, to, _ := strings.Cut(text, ":")
	host, err := portNumber(from)
	if err != nil {
		return vm.Forward{}, err
	}
	guest, err := portNumber(to)
	return vm.Forward{Host: host, Guest: guest}, err
}

func portNumber(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fail.New(fail.Usage, "", "write HOST:GUEST, such as 8080:80", "%q is no port", text)
	}
	return int(n), nil
}

// ParseMemory reads the memory of a guest, in bytes.
func ParseMemory(text string) (int64, error) {
	size, err := definition.ParseSize(text)
	if err != nil {
		return 0, fail.New(fail.Usage, "", "write a number with a unit, such as 512M or 2G", "%w", err)
	}
	if size < LeastMemory {
		return 0, fail.New(fail.Usage, "", "give "+LeastMemory.String()+" or more", "%s is too little", text)
	}
	return int64(size), nil
}

// LeastMemory is what a guest needs to say anything at all.
const LeastMemory = 64 * definition.MiB

// ParseDiskSize reads the size of a disk, in bytes.
func ParseDiskSize(text string) (int64, error) {
	size, err := definition.ParseSize(text)
	if err == nil && size%definition.MiB != 0 {
		err = fmt.Errorf("%s is not a multiple of 1 MiB", text)
	}
	if err != nil {
		return 0, fail.New(fail.Usage, "", "write a number with a unit, such as 20G", "%w", err)
	}
	return int64(size), nil
}

// setting is one of Settings that a file may hold, as text.
type setting struct {
	key   string
	about string
	text  func(Settings) string
	read  func(*Settings, string) error
}

// settings is what conf.d/NAME.conf may hold besides the disk, in its order.
var settings = []setting{
	{
		"memory", "",
		func(s Settings) string { return definition.Size(s.Memory).String() },
		func(s *Settings, text string) (err error) { s.Memory, err = ParseMemory(text); return err },
	},
	{
		"size", "of the disk, such as 20G; that of the image otherwise",
		func(s Settings) string {
			if s.Size == 0 {
				return ""
			}
			return definition.Size(s.Size).String()
		},
		func(s *Settings, text string) (err error) { s.Size, err = ParseDiskSize(text); return err },
	},
	{
		"cpus", "under KVM; emulation has one",
		func(s Settings) string { return strconv.Itoa(s.CPUs) },
		func(s *Settings, text string) (err error) {
			if s.CPUs, err = strconv.Atoi(text); err != nil || s.CPUs < 1 {
				err = fmt.Errorf("%q is no number of processors", text)
			}
			return err
		},
	},
	{
		"firmware", strings.Join(arch.Target.FirmwareNames(), ", "),
		func(s Settings) string { return s.Firmware },
		func(s *Settings, text string) error {
			s.Firmware = text
			return oneOf(text, arch.Target.FirmwareNames())
		},
	},
	{
		"ports", "HOST:GUEST of TCP, such as 8080:80 8443:443; ssh has one anyway",
		func(s Settings) string {
			words := make([]string, len(s.Ports))
			for i, f := range s.Ports {
				words[i] = f.String()
			}
			return strings.Join(words, " ")
		},
		func(s *Settings, text string) error {
			s.Ports = nil
			for _, word := range strings.Fields(text) {
				port, err := ParsePort(word)
				if err != nil {
					return err
				}
				s.Ports = append(s.Ports, port)
			}
			return nil
		},
	},
	{
		"network", NetworkOpen + ", or " + NetworkIsolated + " for the ports alone",
		func(s Settings) string { return s.Network },
		func(s *Settings, text string) error {
			s.Network = text
			return oneOf(text, []string{NetworkOpen, NetworkIsolated})
		},
	},
	{
		"share", "folder that the machine has at " + SharedAt,
		func(s Settings) string { return s.Share },
		func(s *Settings, text string) error { s.Share = text; return nil },
	},
}

func oneOf(word string, known []string) error {
	if !slices.Contains(known, word) {
		return fmt.Errorf("%q is none of %s", word, strings.Join(known, ", "))
	}
	return nil
}

// Installer is the first process of a guest that installs a system as a test wants it: it gets
// its answers over HTTP, partitions the disk, copies a file system there and changes a file.
package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if err := install(); err != nil {
		fmt.Println(err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

type answers struct {
	Server string `json:"server"` // of the file system
	Size   int64  `json:"size"`   // bytes of it
	Name   string `json:"name"`
	Token  string `json:"token"`
	Swap   int64  `json:"swap"` // bytes of a logical partition behind it
}

func install() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"devtmpfs", "/dev"}} {
		if err := errors.Join(os.MkdirAll(m[1], 0o755), unix.Mount(m[0], m[1], m[0], 0, "")); err != nil {
			return err
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	words := strings.Fields(string(cmdline))
	switch {
	case slices.Contains(words, "question"):
		fmt.Print("Partitioning\nWhich disk is to be erased? [none] ")
		time.Sleep(time.Hour)
	case slices.Contains(words, "standstill"):
		fmt.Println("Waiting for a disk that nobody has")
		time.Sleep(time.Hour)
	}
	if err := prepare(); err != nil {
		return err
	}
	var a answers
	for _, word := range words {
		if url, is := strings.CutPrefix(word, "answers="); is {
			content, err := get(url)
			if err != nil {
				return err
			}
			err = json.NewDecoder(content).Decode(&a)
			if err := errors.Join(err, content.Close()); err != nil {
				return err
			}
		}
	}
	fmt.Printf("The token is %s\n", a.Token)
	return copySystem(a)
}

// prepare loads modules, in the order of their names, and sets up the network of QEMU.
func prepare() error {
	modules, _ := filepath.Glob("/modules/*")
	for _, name := range modules {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(file.Fd()), "", 0)
		if err = errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	for _, set := range []struct {
		request uint
		address [4]byte
	}{{unix.SIOCSIFADDR, [4]byte{10, 0, 2, 15}}, {unix.SIOCSIFNETMASK, [4]byte{255, 255, 255, 0}}} { // which needs an address
		r, err := unix.NewIfreq("eth0")
		if err == nil {
			err = r.SetInet4Addr(set.address[:])
		}
		if err == nil {
			err = ioctl(socket, set.request, r)
		}
		if err != nil {
			return fmt.Errorf("eth0: %w", err)
		}
	}
	r, err := unix.NewIfreq("eth0")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return ioctl(socket, unix.SIOCSIFFLAGS, r)
}

func ioctl(socket int, request uint, r *unix.Ifreq) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), uintptr(request), uintptr(unsafe.Pointer(r))); errno != 0 {
		return errno
	}
	return nil
}

func get(url string) (io.ReadCloser, error) {
	client := http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 30 * time.Second}).DialContext}}
	answer, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("Download failed: %s", answer.Status) //nolint:revive // as installers say it
	}
	return answer.Body, nil
}

// copySystem copies the blocks of a file system that hold anything: each comes with its place
// and length.
func copySystem(a answers) error {
	fmt.Println("Partitioning ... 0%... 100%")
	disk, err := os.OpenFile("/dev/vda", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	const start = 1 << 20
	extended := int64(start) + a.Size
	tables := map[int64][]entry{0: {{linux, start, a.Size}, {logical, extended, a.Swap + start}}, extended: {{swap, start, a.Swap}}}
	for at, entries := range tables {
		if _, err := disk.WriteAt(table(entries), at); err != nil {
			return err
		}
	}
	if _, err := disk.WriteAt(swapHead(a.Swap), extended+start); err != nil {
		return err
	}
	content, err := get(a.Server + "/root")
	if err != nil {
		return err
	}
	fmt.Println("Copying the system ... 0%")
	head, block := make([]byte, 16), make([]byte, 1<<20)
	for {
		if _, err := io.ReadFull(content, head); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		block = block[:binary.LittleEndian.Uint64(head[8:])]
		if _, err := io.ReadFull(content, block); err != nil {
			return err
		}
		if _, err := disk.WriteAt(block, start+int64(binary.LittleEndian.Uint64(head))); err != nil {
			return err
		}
	}
	if err := errors.Join(content.Close(), disk.Sync(), unix.IoctlSetInt(int(disk.Fd()), unix.BLKRRPART, 0), disk.Close()); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll("/mnt", 0o755), unix.Mount("/dev/vda1", "/mnt", "ext4", 0, "")); err != nil {
		return err
	}
	err = os.WriteFile("/mnt/etc/installed", []byte(a.Name+" "+a.Token+"\n"), 0o644)
	fstab := fmt.Sprintf("/dev/vda1 / ext4 noatime,errors=remount-ro 0 1\nUUID=%s none swap sw 0 0\n", swapUUID)
	err = errors.Join(err, os.WriteFile("/mnt/etc/fstab", []byte(fstab), 0o644))
	return errors.Join(err, unix.Unmount("/mnt", 0))
}

// Types of an MS-DOS partition table.
const (
	logical = 0x05 // others are in it
	swap    = 0x82
	linux   = 0x83
)

// entry is a partition; its place is that from the table on. All are bytes.
type entry struct {
	kind        byte
	start, size int64
}

func table(entries []entry) []byte {
	t := make([]byte, 512)
	t[510], t[511] = 0x55, 0xaa
	for i, e := range entries {
		raw := t[446+16*i:]
		raw[4] = e.kind
		binary.LittleEndian.PutUint32(raw[8:], uint32(e.start/512))
		binary.LittleEndian.PutUint32(raw[12:], uint32(e.size/512))
	}
	return t
}

const swapUUID = "61626364-6566-6768-696a-6b6c6d6e6f70"

// swapHead is the first page of a swap area, as mkswap(8) writes it.
func swapHead(size int64) []byte {
	page := make([]byte, 4096)
	binary.LittleEndian.PutUint32(page[1024:], 1)
	binary.LittleEndian.PutUint32(page[1028:], uint32(size/int64(len(page))-1))
	copy(page[1036:], "abcdefghijklmnop")
	copy(page[4086:], "SWAPSPACE2")
	return page
}

package diskformat

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// qcow2Head is a header of QEMU's docs/interop/qcow2.txt.
func qcow2Head(version uint32, backing string, encryption uint32, incompatible uint64) string {
	const nameAt = 4096
	head := make([]byte, 64<<10)
	copy(head, "QFI\xfb")
	binary.BigEndian.PutUint32(head[4:], version)
	if backing != "" {
		binary.BigEndian.PutUint64(head[8:], nameAt)
		binary.BigEndian.PutUint32(head[16:], uint32(len(backing)))
		copy(head[nameAt:], backing)
	}
	binary.BigEndian.PutUint32(head[20:], 16)
	binary.BigEndian.PutUint64(head[24:], 1<<30)
	binary.BigEndian.PutUint32(head[32:], encryption)
	binary.BigEndian.PutUint64(head[72:], incompatible)
	return string(head)
}

// vmdkHead is the header of a sparse extent with its descriptor in the sector given.
func vmdkHead(capacity, sector uint64, descriptor string) string {
	head := make([]byte, 64<<10)
	copy(head, "KDMV")
	binary.LittleEndian.PutUint32(head[4:], 1)
	binary.LittleEndian.PutUint64(head[12:], capacity)
	binary.LittleEndian.PutUint64(head[28:], sector)
	binary.LittleEndian.PutUint64(head[36:], 20)
	copy(head[sector*512:], descriptor)
	return string(head)
}

// vhd is a footer of "Virtual Hard Disk Image Format Specification", for a disk of so many bytes
// and a geometry of so many sectors.
func vhd(kind uint32, creator string, size, sectors uint64) string {
	footer := make([]byte, vhdFooter)
	copy(footer, vhdCookie)
	binary.BigEndian.PutUint64(footer[vhdHeader:], vhdFooter)
	copy(footer[vhdCreator:], creator)
	binary.BigEndian.PutUint64(footer[vhdSize:], size)
	heads, track := uint64(1), uint64(1)
	if sectors > 65535 {
		heads, track = 16, 255
	}
	binary.BigEndian.PutUint16(footer[vhdGeometry:], uint16(sectors/heads/track))
	footer[vhdGeometry+2], footer[vhdGeometry+3] = byte(heads), byte(track)
	binary.BigEndian.PutUint32(footer[vhdKind:], kind)
	binary.BigEndian.PutUint32(footer[vhdSum:], vhdSumOf(footer))
	return string(footer)
}

// parentOf is the header behind the footer of a differencing VHD.
func parentOf(name string) string {
	header := make([]byte, 1024)
	copy(header, "cxsparse")
	for i, unit := range utf16.Encode([]rune(name)) {
		binary.BigEndian.PutUint16(header[vhdParent+2*i:], unit)
	}
	return string(header)
}

var zeros = strings.Repeat("\x00", 1<<20)

const flat = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"/etc/shadow\" 0\n"

func TestAnImageTellsItsFormat(t *testing.T) {
	at := func(offset int, magic string) string {
		return strings.Repeat("\x00", offset) + magic + strings.Repeat("\x00", 512)
	}
	for name, tc := range map[string]struct{ content, format, problem string }{
		"empty":                          {"", "raw", ""},
		"tar":                            {at(257, "ustar\x0000"), "", "archive"},
		"tar of GNU":                     {at(257, "ustar  \x00"), "", "archive"},
		"gzip":                           {"\x1f\x8b\x08", "", "compressed"},
		"squashfs":                       {"hsqs", "", "squashfs"},
		"boot sector":                    {at(510, "\x55\xaa"), "raw", ""},
		"ISO 9660":                       {at(32769, "CD001"), "", "an ISO 9660"},
		"ISO 9660, boot sector":          {at(510, "\x55\xaa"+strings.Repeat("\x00", 32769-512)+"CD001"), "", "an ISO 9660"},
		"ISO 9660, isohybrid":            {at(446, "\x80"+strings.Repeat("\x00", 14)+"\x10"+strings.Repeat("\x00", 48)+"\x55\xaa"+strings.Repeat("\x00", 32769-512)+"CD001"), "raw", ""},
		"ISO 9660, cut off":              {at(32768, "")[:32768], "raw", ""},
		"text":                           {"a disk\n", "raw", ""},
		"comment":                        {"#!/bin/sh\necho version=1\n", "raw", ""},
		"qcow2":                          {qcow2Head(3, "", 0, 0), "qcow2", ""},
		"qcow2, version 2":               {qcow2Head(2, "", 0, 4), "qcow2", ""}, // no features yet
		"qcow2, compressed by zstd":      {qcow2Head(3, "", 0, 8), "qcow2", ""},
		"qcow2, backing file":            {qcow2Head(3, "/etc/shadow", 0, 0), "", `depends on another file, "/etc/shadow"`},
		"qcow2, hostile backing name":    {qcow2Head(2, "json:{\x1b[2J\n", 0, 0), "", `"json:{\x1b[2J\n"`},
		"qcow2, data file":               {qcow2Head(3, "", 0, 4), "", "its data is in another file"},
		"qcow2, encrypted":               {qcow2Head(3, "", 2, 0), "", "encrypted"},
		"qcow2, cut off":                 {qcow2Head(3, "", 0, 0)[:70], "", "cut off"},
		"qcow2, cut off in version 3":    {qcow2Head(3, "", 0, 0)[:75], "", "cut off"},
		"QCOW":                           {qcow2Head(1, "", 0, 0), "", "not supported (QCOW, version 1)"},
		"vmdk":                           {vmdkHead(2048, 1, "# Disk DescriptorFile\nversion=1\nRW 2048 SPARSE \"disk.vmdk\"\n"), "vmdk", ""},
		"vmdk, parent":                   {vmdkHead(2048, 1, "parentFileNameHint=\"/etc/shadow\"\n"), "", `depends on another file, "/etc/shadow"`},
		"vmdk, parent elsewhere":         {vmdkHead(2048, 100, "CID=1\nparentFileNameHint=\"/etc/shadow\"\n"), "", `depends on another file, "/etc/shadow"`},
		"vmdk, parent behind the code":   {vmdkHead(2048, 1, "CID=1\n\x00parentFileNameHint=\"/etc/shadow\"\n"), "vmdk", ""},
		"vmdk without a capacity":        {vmdkHead(0, 1, flat), "", "the disk itself is in other files"},
		"vmdk, cut off":                  {"KDMV", "", "cut off"},
		"vmdk descriptor":                {flat, "", "the disk itself is in other files"},
		"vmdk descriptor, disguised":     {"\n# nothing here\r\n \nversion=1\nRW 2048 FLAT \"/etc/shadow\" 0\n", "", "the disk itself is in other files"},
		"vmdk of a snapshot":             {"\xbe\xba\xfe\xca\x00\x00\x00\x00", "", "not supported"},
		"vhdx":                           {"vhdxfile", "vhdx", ""},
		"vdi":                            {at(0x40, "\x7f\x10\xda\xbe"), "vdi", ""},
		"vhd, cut off":                   {"conectix", "", "cut off"},
		"vhd, dynamic":                   {vhd(3, "qem2", 1<<20, 0), "vhd", ""},
		"vhd, dynamic, QEMU's geometry":  {vhd(3, "qemu", 1<<20, 2000), "vhd", ""},
		"vhd, dynamic, VirtualBox":       {vhd(3, "vbox", 1<<20, 2048), "vhd", ""},
		"vhd, dynamic, cut by QEMU":      {vhd(3, "vbox", 1<<20, 2000), "", `of "vbox" with a disk of 1048576 bytes, of which QEMU would take 1024000`},
		"vhd, differencing":              {vhd(4, "win ", 1<<20, 0) + parentOf("C:\\parent.vhd"), "", `depends on another file, "C:\\parent.vhd"`},
		"vhd, differencing, cut off":     {vhd(4, "win ", 1<<20, 0), "", `depends on another file, ""`},
		"vhd, of no kind":                {vhd(7, "win ", 1<<20, 0), "", "not supported (7)"},
		"vhd, fixed":                     {zeros + vhd(2, "qem2", 1<<20, 0), "vhd", ""},
		"vhd, fixed, full of an archive": {at(257, "ustar\x0000") + zeros[257+8+512:] + vhd(2, "win ", 1<<20, 0), "vhd", ""},
		"vhd, fixed, greatest geometry":  {zeros + vhd(2, "wa\x00\x00", 1<<20, 65535*16*255), "vhd", ""},
		"vhd, fixed, cut by QEMU":        {zeros + vhd(2, "wa\x00\x00", 1<<20, 2000), "", "of which QEMU would take 1024000"},
		"vhd, fixed, of another size":    {zeros + vhd(2, "qem2", 1<<20-512, 0), "raw", ""},
		"vhd, fixed, wrong checksum":     {zeros + strings.Replace(vhd(2, "qem2", 1<<20, 0), "qem2", "qemu", 1), "raw", ""},
		"vhd, dynamic, at the end":       {zeros + vhd(3, "qem2", 1<<20, 0), "raw", ""},
		"qed":                            {"QED\x00", "", "not supported (QED)"},
		"luks":                           {"LUKS\xba\xbe", "", "not supported (LUKS)"},
	} {
		format, err := Identify(strings.NewReader(tc.content), int64(len(tc.content)))
		if tc.problem == "" && (err != nil || format != tc.format) {
			t.Errorf("%s: %s, %v", name, format, err)
		}
		if tc.problem != "" && (fail.ExitCode(err) != 2 || !strings.Contains(err.Error(), tc.problem) || fail.Hint(err) == "") {
			t.Errorf("%s: %v, want %s", name, err, tc.problem)
		}
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add([]byte(qcow2Head(3, "/etc/shadow", 0, 0)[:8192]))
	f.Add([]byte(vmdkHead(1, 1, flat)[:8192]))
	f.Fuzz(func(t *testing.T, content []byte) {
		format, err := Identify(bytes.NewReader(content), int64(len(content)))
		if err == nil && format == "" {
			t.Error("neither a format nor an error")
		}
	})
}

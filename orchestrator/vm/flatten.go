package vm

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Flatten is the command that writes an overlay, with the image below it, as a raw disk with
// holes. Both are open, and neither is asked what lies below it. A guest that has taken over
// its QEMU may have named other files in the overlay: such a one is an error.
func Flatten(image *os.File, format string, overlay *os.File, out string) (host.Command, error) {
	const untold = 0 // size: a qcow2 tells by its start
	if format, err := diskformat.Identify(overlay, untold); err != nil || format != diskformat.QCOW2 {
		return host.Command{}, cmp.Or(err, errors.New("the machine's disk is not what it was made as"))
	}
	is := diskformat.Named(format)
	below := node{"driver": is.QEMU, "file": openFile(image)}
	if is.Backing {
		below["backing"] = nil
	}
	text, _ := json.Marshal(node{"driver": diskformat.QCOW2, "file": openFile(overlay), "backing": below}) // nothing in it can fail
	return host.Cmd("qemu-img", "convert", "-O", diskformat.Raw, "-m", "16", "-W", "-S", "64k", "-t", "unsafe", "json:"+string(text), out), nil
}

// openFile is an open file, as QEMU finds it for as long as it is open.
func openFile(file *os.File) node {
	return node{"driver": "file", "filename": fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd())}
}

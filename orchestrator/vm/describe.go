package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Descriptor of the image, for a QEMU that only describes it.
const describedFile = firstExtraFile + 1

// Describe has QEMU open the image as the format and no other, and is the size of the
// disk in it in bytes. An image that makes QEMU open anything else, or that is
// encrypted, is refused as wrong usage. QEMU is confined for it as it is for
// a guest, so that what an image refers to is not even reached, and it has a minute.
func (c Confinement) Describe(ctx context.Context, image *os.File, format string) (virtualSize int64, err error) {
	limited, cancel := context.WithTimeout(ctx, confineLimit)
	defer cancel()
	qemu, err := c.start(limited, c.describer(format), c.user, []*os.File{image})
	if err != nil {
		return 0, err
	}
	defer func() { _ = qemu.monitor.Close() }()
	defer context.AfterFunc(limited, func() { _ = qemu.monitor.Close() })()
	nodes, asking := askForNodes(limited, qemu.monitor)
	if asking == nil {
		cancel()
	}
	ending := <-qemu.ended
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case asking == nil:
		return judgeNodes(nodes, inherited(describedFile))
	case errors.Is(limited.Err(), context.DeadlineExceeded):
		return 0, unreadable(format, fmt.Errorf("QEMU did not open it within %s", confineLimit))
	case ending != nil:
		return 0, unreadable(format, qemu.said.explain(ending))
	}
	return 0, unreadable(format, asking)
}

func unreadable(format string, err error) error {
	return &fail.Error{Kind: fail.Usage, Err: fmt.Errorf("QEMU cannot read it as %s: %w", format, err), Hint: "try 'qemu-img check'"}
}

// describer is the QEMU that opens the image and has no machine to run it.
func (c Confinement) describer(format string) host.Command {
	args := append(basics(c.open != "", []int{describedFile}), "-machine", "none")
	args = append(args, blockdevs(Image{File: inherited(describedFile), Format: format}.nodes()...)...)
	return host.Cmd(arch.Target.QEMU.Binary, append(args, monitored(firstExtraFile)...)...)
}

// blockNode is what matters of QMP's BlockDeviceInfo.
type blockNode struct {
	Name      string `json:"node-name"`
	File      string `json:"file"`
	Encrypted bool   `json:"encrypted"`
	Image     struct {
		VirtualSize int64  `json:"virtual-size"`
		Backing     string `json:"backing-filename"`
		Encrypted   bool   `json:"encrypted"`
	} `json:"image"`
}

// askForNodes asks QEMU's monitor for all that is open, in its chain of whatever depth.
func askForNodes(ctx context.Context, conn *net.UnixConn) (nodes []blockNode, err error) {
	m := converse(conn, func(message) {})
	if err := m.Execute(ctx, greet, nil, nil); err != nil {
		return nil, err
	}
	return nodesOf(ctx, m)
}

func nodesOf(ctx context.Context, m *Monitor) (nodes []blockNode, err error) {
	err = m.Execute(ctx, "query-named-block-nodes", nil, &nodes)
	return nodes, err
}

// judgeNodes is the size of the disk where the nodes are the image and the one file that
// it is in.
func judgeNodes(nodes []blockNode, file string) (virtualSize int64, err error) {
	refuse := func(format string, args ...any) (int64, error) {
		return 0, fail.New(fail.Usage, "", diskformat.Standalone, format, args...)
	}
	for _, n := range nodes {
		switch {
		case n.Image.Backing != "":
			return refuse("it depends on another file, %q", n.Image.Backing)
		case n.Name != "image" && n.File != file:
			return refuse("it depends on another file, %q", n.File)
		case n.Encrypted || n.Image.Encrypted:
			return refuse("it is encrypted")
		case n.Name == "image":
			virtualSize = n.Image.VirtualSize
		}
	}
	if len(nodes) != 2 || virtualSize <= 0 {
		return refuse("QEMU does not describe it as one disk in one file")
	}
	return virtualSize, nil
}

package orchestrator

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// guestsHost is where QEMU's network shows a guest the loopback device of the builder.
const guestsHost = "10.0.2.2"

// noAnswers is what cloud-init looks for beside user-data, which autoinstall's answers are.
var noAnswers = map[string]bool{"meta-data": true, "vendor-data": true, "network-config": true}

// serve serves the answers of an installer while its guest runs, and returns its command line
// with their address. They may hold secrets, and any user of the builder reaches the loopback
// device: so only a process of the user as whom QEMU runs gets them.
func (k *keeper) serve(ctx context.Context, confinement vm.Confinement, o guestOrder) (cmdline string, err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("serve the answers: %w", err)
	}
	uid := confinement.UID(k.accel.For(arch.BIOS))
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		owner, err := ownerOf(r.RemoteAddr, listener.Addr().String())
		if err == nil && owner != uid {
			err = fmt.Errorf("it is one of user %d", owner)
		}
		switch {
		case err != nil:
			k.task("note", "installer: the answers were asked for by another process than its guest, and not given: %v", err)
			http.Error(w, "these are for another one", http.StatusForbidden)
		case noAnswers[path.Base(r.URL.Path)]:
		default:
			k.task("ok", "installer: has its answers")
			http.ServeContent(w, r, "answers.txt", time.Time{}, bytes.NewReader(o.Answers))
		}
	})}
	k.until.Push("stop serving the answers", server.Close)
	go func() { _ = server.Serve(listener) }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	return strings.ReplaceAll(o.Cmdline, answersMark, "http://"+net.JoinHostPort(guestsHost, port)+"/answers"), err
}

// ownerOf is the user whose process has the other end of a connection over the loopback device
// (proc_net_tcp(5)). The table is read in parts, between which it changes: a line may be missed.
func ownerOf(theirs, ours string) (uid int, err error) {
	for range 5 {
		table, problem := os.ReadFile("/proc/net/tcp")
		if problem != nil {
			return 0, problem
		}
		if uid, err = ownerIn(string(table), theirs, ours); !errors.Is(err, errNoOwner) {
			return uid, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return 0, err
}

var errNoOwner = errors.New("nobody has the connection")

// ownerIn looks for the connection by both of its ends: a port may have others, to elsewhere.
func ownerIn(table, theirs, ours string) (uid int, err error) {
	local, err := inTable(theirs)
	if err != nil {
		return 0, err
	}
	remote, err := inTable(ours)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(table) {
		if fields := strings.Fields(line); len(fields) > 7 && fields[1] == local && fields[2] == remote {
			return strconv.Atoi(fields[7])
		}
	}
	return 0, errNoOwner
}

// inTable is an address as the table has it.
func inTable(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", err
	}
	ip := bytes.Clone(net.ParseIP(host).To4())
	slices.Reverse(ip) // as a number of a little-endian machine
	return fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(ip)), number), nil
}

package orchestrator

import (
	"context"
	"io"

	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/vm"
)

const connections = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0000000000000000 20 4 30 10 -1
   2: 0100007F:C001 0100007F:1F91 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000 20 4 30 10 -1
   3: 0100007F:C001 0100007F:1F90 01 00000000:00000000 00:00000000 00000000 65534        0 13 1 0000000000000000 20 4 30 10 -1
`

func TestWhoAsksForAnswers(t *testing.T) {
	const ours = "127.0.0.1:8080"
	for address, want := range map[string]int{"127.0.0.1:49153": 65534, "127.0.0.1:8080": -1, "127.0.0.1:1": -1, "127.0.0.2:49153": -1} {
		uid, err := ownerIn(connections, address, ours)
		if (err != nil) != (want < 0) || err == nil && uid != want {
			t.Errorf("%s: %d, %v", address, uid, err)
		}
	}
	for _, address := range []string{"x", "127.0.0.1:http", "127.0.0.1:70000"} {
		if _, err := ownerIn(connections, address, ours); err == nil {
			t.Errorf("%s is no address", address)
		}
	}
}

// answering serves answers as to a guest whose QEMU has the confinement.
func answering(t *testing.T, c vm.Confinement) (address string, told *strings.Builder) {
	t.Helper()
	told = &strings.Builder{}
	k := &keeper{accel: &vm.Accelerator{}, tell: func(_, status, format string, _ ...any) { told.WriteString(status + " " + format + "\n") }}
	cmdline, err := k.serve(context.Background(), c, guestOrder{Cmdline: "auto url=" + answersMark + " s=" + answersMark + "/", Answers: []byte("the answers")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.until.Close(); err != nil {
			t.Error(err)
		}
	})
	_, address, _ = strings.Cut(strings.Fields(cmdline)[1], "url=")
	if !strings.HasPrefix(address, "http://10.0.2.2:") || strings.Fields(cmdline)[2] != "s="+address+"/" {
		t.Errorf("the command line is %s", cmdline)
	}
	return strings.Replace(address, guestsHost, "127.0.0.1", 1), told
}

func TestAnswersAreServed(t *testing.T) {
	address, told := answering(t, vm.Confinement{})
	for path, want := range map[string]string{"": "the answers", "/user-data": "the answers", "/meta-data": ""} {
		answer, err := http.Get(address + path)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || string(content) != want {
			t.Errorf("%s: %s, %q, %v", path, answer.Status, content, err)
		}
	}
	if !strings.Contains(told.String(), "has its answers") {
		t.Errorf("told %q", told)
	}
}

// Whoever else is on the machine gets none: here QEMU would be another user.
func TestAnswersAreForTheGuestAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root's QEMU is another user's")
	}
	c, err := vm.Confine(t.Context(), 12345, 12345)
	if err != nil {
		t.Skip(err)
	}
	address, told := answering(t, c)
	answer, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	content, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusForbidden || strings.Contains(string(content), "the answers") || !strings.Contains(told.String(), "note installer: the answers were asked for") {
		t.Errorf("%s, %q; told %q", answer.Status, content, told)
	}
}

package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// TestErrorsHoldNoSignedURLs has what a storage service behind a registry is
// asked with.
func TestErrorsHoldNoSignedURLs(t *testing.T) {
	signed, err := url.Parse("https://user:hunter2@storage.example/blob?X-Amz-Signature=hunter2")
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"request":  &url.Error{Op: "Get", URL: signed.String(), Err: errors.New("connection reset")},
		"response": &errcode.ErrorResponse{Method: http.MethodGet, URL: signed, StatusCode: http.StatusForbidden},
	} {
		got := Explain("registry.example/debian", err)
		if fail.ExitCode(got) != 6 || strings.Contains(got.Error(), "hunter2") || !strings.Contains(got.Error(), "storage.example/blob") {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestFailuresOfFilesAreNotTheRegistrys has what the kernel says of a file.
func TestFailuresOfFilesAreNotTheRegistrys(t *testing.T) {
	for _, cause := range []error{unix.ENOSPC, unix.EROFS, unix.EACCES, unix.EIO, unix.EDQUOT} {
		err := Explain("registry.example/debian", fmt.Errorf("copy: %w", &fs.PathError{Op: "write", Path: "/none", Err: cause}))
		if fail.ExitCode(err) != 3 || fail.Hint(err) == "" {
			t.Errorf("%v: exit code %d; hint %s", cause, fail.ExitCode(err), fail.Hint(err))
		}
	}
}

package publish

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

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
		got := explain("registry.example/debian", err)
		if fail.ExitCode(got) != 6 || strings.Contains(got.Error(), "hunter2") || !strings.Contains(got.Error(), "storage.example/blob") {
			t.Errorf("%s: %v", name, got)
		}
	}
}

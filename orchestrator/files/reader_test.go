package files_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/files"
)

func TestCopiesEndWithTheirContext(t *testing.T) {
	disk := make([]byte, 2*files.CopyBuffer+1)
	if n, err := files.Copy(t.Context(), io.Discard, bytes.NewReader(disk)); n != int64(len(disk)) || err != nil {
		t.Errorf("%d of %d bytes, %v", n, len(disk), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := files.Copy(ctx, io.Discard, bytes.NewReader(disk)); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
}

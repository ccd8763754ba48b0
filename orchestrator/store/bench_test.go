package store_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/store"
)

// BenchmarkLayer measures what a layer of the size of Debian costs, of 15,000 files and
// 400 MB: to commit it, to find it, and to verify it.
func BenchmarkLayer(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("only root mounts")
	}
	s, err := store.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("commit", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			_ = s.Remove(key("big"))
			w, err := s.Begin(b.Context(), &host.Local{}, nil, filepath.Join(b.TempDir(), "at"))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := runShell(w.Root(), "for d in $(seq 150); do mkdir $d; head -c 2666666 /dev/urandom > x; (cd $d; split -n 100 -a 3 ../x); done; rm x"); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			l, err := w.Commit(b.Context(), key("big"), store.About{})
			if err != nil {
				b.Fatal(err)
			}
			if err := l.Release(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("get", func(b *testing.B) {
		for b.Loop() {
			l, err := s.Get(key("big"))
			if err != nil {
				b.Fatal(err)
			}
			if err := l.Release(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Verify(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

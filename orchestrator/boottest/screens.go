package boottest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Moments of a boot whose screen is kept.
const (
	LoaderScreen = "loader" // the boot loader is at work
	LastScreen   = "screen" // the boot is judged
)

// Screens is what the screen of a guest showed at LoaderScreen and LastScreen, as PNG. There
// is none of a moment that was over too soon, or whose screen could not be had.
type Screens map[string][]byte

// Moments is the moments in their order.
var Moments = []string{LoaderScreen, LastScreen}

// ScreenName is the name of the file with the screen of a moment of a boot of that name.
func ScreenName(boot, moment string) string { return "boot-" + boot + "-" + moment + ".png" }

// IsScreen says whether a file's name is one of ScreenName.
func IsScreen(name string) bool {
	return strings.HasPrefix(name, "boot-") && slices.ContainsFunc(Moments, func(moment string) bool { return strings.HasSuffix(name, "-"+moment+".png") })
}

// take keeps what the screen shows now. A boot is not judged by it.
func (s Screens) take(ctx context.Context, guest *vm.Guest, moment string) {
	if content, err := guest.Screen(ctx); err == nil {
		s[moment] = content
	}
}

// write puts the screens beside a console, in place of those of another boot.
func (s Screens) write(console, boot string) error {
	var problems []error
	for _, moment := range Moments {
		path := filepath.Join(filepath.Dir(console), ScreenName(boot, moment))
		if content := s[moment]; content != nil {
			problems = append(problems, writeNew(path, content))
		} else if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

package orchestrator

import (
	"strings"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// place is a folder that a build writes in.
type place struct {
	folder string
	shown  string // its name outside the jail
	hint   string // begins with what to do where it is full
}

func storePlace(folder string) place {
	return place{folder, folder, "free space where the store is, " + folder + ", or choose another with --cache"}
}

// resultsPlace is the output folder, which the work folder lies in.
func resultsPlace(folder, shown string) place {
	return place{folder, shown, "free space in " + shown + ", or choose another folder with -o"}
}

// fullSigns is how tools say that they have no room.
var fullSigns = []string{"no space left on device", "disk quota exceeded", "enough free space", "disk full"}

// explainFull makes an error one of the host, with what to do, where it comes of a place
// that is full, which tools do not always say. The place where it wrote most comes first.
func explainFull(err error, places ...place) error {
	if err == nil || fail.ExitCode(err) == fail.Interrupted.ExitCode() || fail.ExitCode(err) == fail.Host.ExitCode() && fail.Hint(err) != "" {
		return err
	}
	text, told := strings.ToLower(err.Error()+"\n"+fail.Tail(err)), false
	for _, sign := range fullSigns {
		told = told || strings.Contains(text, sign)
	}
	for _, p := range places {
		switch {
		case host.Full(p.folder) && !told:
			return &fail.Error{Kind: fail.Host, Op: "no space left in " + p.shown, Hint: p.hint, Err: err}
		case host.Full(p.folder):
			return &fail.Error{Kind: fail.Host, Hint: p.hint, Err: err}
		}
	}
	if told { // and there is room again by now
		return &fail.Error{Kind: fail.Host, Hint: places[0].hint, Err: err}
	}
	return err
}

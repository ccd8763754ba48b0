package image

import (
	"os"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
)

// Open opens an image for reading that is said to be of a format, or of which nothing is
// known (""), and gives its true format. What is said to be raw is: its bytes are the guest's
// and mean nothing. It stays open from here on, so that nothing else is booted in its place.
// One that diskformat.Identify refuses is refused.
func Open(path, said string) (file *os.File, format string, err error) {
	if file, err = files.OpenRegular(path); err != nil {
		return nil, "", &fail.Error{Kind: fail.Usage, Err: err, Hint: "name a disk image"}
	}
	if format, err = trueFormat(file, said); err != nil {
		file.Close()
		return nil, "", fail.Wrap(fail.Usage, path, err)
	}
	return file, format, nil
}

func trueFormat(file *os.File, said string) (string, error) {
	if said == diskformat.Raw {
		return said, nil
	}
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	format, err := diskformat.Identify(file, info.Size())
	if err == nil && said != "" && said != format {
		return "", fail.New(fail.Usage, "", "build it again", "it is said to be %q, but it is %s", said, format)
	}
	return format, err
}

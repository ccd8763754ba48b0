package orchestrator

import (
	"context"

	"github.com/btw-img/btw-img/orchestrator/diskformat"
)

// room is what a build takes of the file system of its results, from the moment that it
// is known how large its disk gets.
type room struct {
	reserve func(ctx context.Context, bytes int64) error
	release func()
}

// room waits, when it is reserved, until the disk and all that is made of it have a place
// besides those of other builds.
func (b Builder) room(plan Plan, space *workspace, s *stages) *room {
	r := &room{release: func() {}}
	r.reserve = func(ctx context.Context, bytes int64) error {
		most := bytes
		for _, format := range outputs(plan.Definition) {
			if format != diskformat.Raw {
				most += bytes
			}
		}
		release, err := b.Budget.Room(ctx, space.work, bytes, most, func() {
			s.task("Disk", "waits", "for other builds, which take the room for the disk and its images")
		})
		if err == nil {
			r.release = release
		}
		return err
	}
	return r
}

package files

import (
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Each calls do for the numbers from 0 to n-1, on all processors, and returns the first error.
func Each(n int, do func(i int) error) error {
	var next atomic.Int64
	var all errgroup.Group
	for range min(n, runtime.NumCPU()) {
		all.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := do(i); err != nil {
					return err
				}
			}
		})
	}
	return all.Wait()
}

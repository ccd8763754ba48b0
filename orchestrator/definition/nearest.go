package definition

// Nearest is the name that differs from word by at most two typing mistakes,
// or "".
func Nearest(word string, names []string) string {
	best, nearest := 3, ""
	for _, name := range names {
		if d := distance(word, name); d < best && d < len(name) {
			best, nearest = d, name
		}
	}
	return nearest
}

// distance is the Levenshtein distance of a and b, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			above := row[j+1]
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(above+1, row[j]+1, change)
			diagonal = above
		}
	}
	return row[len(b)]
}

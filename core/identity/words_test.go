package identity

import (
	"slices"
	"strings"
	"testing"
)

func TestWordList(t *testing.T) {
	if len(wordList) != 256 || !slices.IsSorted(wordList) {
		t.Fatalf("%d words", len(wordList))
	}
	for i, a := range wordList {
		if len(a) < 3 || len(a) > 6 || strings.Trim(a, "abcdefghijklmnopqrstuvwxyz") != "" {
			t.Errorf("%q is no short word", a)
		}
		for _, b := range wordList[:i] {
			if a[:3] == b[:3] || distance(a, b) < 2 {
				t.Errorf("%s is too much like %s", a, b)
			}
		}
	}
}

// distance is the number of letters to insert, remove or change between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			step := diagonal
			if a[i] != b[j] {
				step++
			}
			diagonal = row[j+1]
			row[j+1] = min(step, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

func TestSafetyWords(t *testing.T) {
	ab := SafetyWords(pub(1), pub(2))
	if len(ab) != SafetyWordCount || !slices.Equal(ab, SafetyWords(pub(2), pub(1))) {
		t.Errorf("%v depends on the side", ab)
	}
	// Whoever computes them elsewhere gets the same.
	if got := strings.Join(ab, " "); got != goldenWords {
		t.Errorf("the words are now: %s", got)
	}
	for n := 3; n < 20; n++ {
		other, same := SafetyWords(pub(1), pub(n)), 0
		for i := range other {
			if other[i] == ab[i] {
				same++
			}
		}
		if same > 4 {
			t.Errorf("key %d: %d words in common", n, same)
		}
	}
}

const goldenWords = "onion daisy senate vacuum kitten castle jungle yellow basin falcon oboe attic oxygen bronze summit object"

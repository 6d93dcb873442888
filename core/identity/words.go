package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"strings"
)

// SafetyWordCount is how many words two people compare: 16 of 8 bits each. Whoever
// sits in between picks two keys whose words must come out the same, which is a
// search for a collision: half of the 128 bits, hence not fewer words.
const SafetyWordCount = 16

// safetyRounds of SHA-256 make each guess of that search dearer: 12 bits more.
const safetyRounds = 1 << 12

// SafetyWords returns the words by which the people behind two device keys make
// sure, over a telephone say, that nobody sits in between: both sides get the
// same words, whichever key comes first. They are made of SHA-256 iterated over
// the sorted keys.
func SafetyWords(a, b ed25519.PublicKey) []string {
	if bytes.Compare(a, b) > 0 {
		a, b = b, a
	}
	h := sha256.Sum256(signedForm("isthmus safety words 1", [][]byte{a, b}))
	for range safetyRounds {
		h = sha256.Sum256(h[:])
	}
	words := make([]string, SafetyWordCount)
	for i := range words {
		words[i] = wordList[h[i]]
	}
	return words
}

// wordList has 256 short words that are hard to mishear for each other: no two
// share their first three letters, and each differs from any other in at least two.
var wordList = strings.Fields(`
acid acorn actor agent alarm album alley amber anchor apple apron arena armor arrow artist atlas attic
autumn badge bagel bamboo banjo barrel basin beach beetle bell bishop board bonus brick bronze brush bucket
bugle bundle butter cabin cactus castle cedar chalk cherry cinema citrus coast cobalt coffee comet copper
coral cotton cousin crane crown cube cycle daisy dancer deputy desert dinner doctor domino donkey dragon
drum dune dust earth echo elbow engine fabric falcon farmer fern fiddle flame flute forest fossil fox frost
fungus galaxy garlic gecko ghost giant glove goat goblet gold grape guitar habit harbor hazel hedge helmet
herald hippo honey horse hotel hunter icon index infant iris island ivory jelly jigsaw joker judge jungle
kayak kettle kitten kiwi knight lagoon lamp lava lemon lizard locket lunch lynx magnet mango maple marble
meadow melon mentor meteor mirror mosaic museum napkin nectar needle nephew nickel noodle north novel nugget
nutmeg oasis object oboe ocean octave omelet onion opal opera orbit orchid osprey oxygen oyster paddle panda
paper pebble pencil pepper piano pigeon pirate planet poplar potato prism puzzle quarry queen quilt rabbit
radio ranger raven ribbon river robot rodeo roof rubber rugby salmon sandal satin scarf school senate shadow
shovel sierra silver sketch snail spider spoon squid statue stereo storm sugar summit swan symbol syrup
tablet talent tennis thorn tiger timber tomato tower tulip tundra turtle twig umpire uncle vacuum velvet
viking violin vision walnut wander water whale wheel willow window wolf wombat wool yacht yellow yogurt
zebra zenith zero zigzag zinc zipper zodiac
`)

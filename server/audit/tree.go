package audit

import (
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// A tree is the right edge of a Merkle tree: the roots of its largest complete
// subtrees, which is all that is needed to append to it and to know its root.
type tree struct {
	n     int64 // leaves
	peaks []node
}

// A node is the hash of a complete subtree, unless a leaf below it is lost.
type node struct {
	hash  tlog.Hash
	known bool
}

// add appends a leaf. Each subtree that it completes passes through inner,
// from the lowest up.
func (t *tree) add(leaf node, inner func(level int, n node) node) {
	for level, n := 1, t.n; n&1 == 1; level, n = level+1, n>>1 {
		last := len(t.peaks) - 1
		left := t.peaks[last]
		t.peaks = t.peaks[:last]
		if leaf.known = leaf.known && left.known; leaf.known {
			leaf.hash = tlog.NodeHash(left.hash, leaf.hash)
		}
		leaf = inner(level, leaf)
	}
	t.peaks = append(t.peaks, leaf)
	t.n++
}

// root is the hash of the tree, if no lost leaf hides it.
func (t *tree) root() (h tlog.Hash, known bool) {
	if t.n == 0 {
		h, err := tlog.TreeHash(0, nil)
		return h, err == nil
	}
	for i, p := range slices.Backward(t.peaks) {
		switch {
		case !p.known:
			return h, false
		case i == len(t.peaks)-1:
			h = p.hash
		default:
			h = tlog.NodeHash(p.hash, h)
		}
	}
	return h, true
}

func (t *tree) clone() tree { return tree{t.n, slices.Clone(t.peaks)} }

// edge returns where the peaks of a tree of n leaves are stored, in the order
// of tree.peaks, which is also the order of the places.
func edge(n int64) []int64 {
	idx := []int64{}
	for level := bits.Len64(uint64(n)) - 1; level >= 0; level-- {
		if n>>level&1 == 1 {
			idx = append(idx, tlog.StoredHashIndex(level, n>>level-1))
		}
	}
	return idx
}

// completes is how many subtrees the leaf seq completes.
func completes(seq int64) int { return bits.TrailingZeros64(uint64(seq) + 1) }

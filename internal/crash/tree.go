package crash

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// Node is a file or directory of the model.
type Node struct {
	Dir    bool    `json:"dir,omitempty"`
	Layers []Layer `json:"layers,omitempty"`
	Size   int64   `json:"size,omitempty"`
	Sum    string  `json:"sum,omitempty"` // of the contents
}

// Tree is the model of what one client has made, by absolute path. The client's own
// directory is not in it.
type Tree map[string]Node

// Apply returns the tree after op; t is left as it was.
func (t Tree) Apply(op Op) (Tree, error) {
	out := maps.Clone(t)
	if out == nil {
		out = Tree{}
	}
	old, exists := t[op.Path]
	if !exists && op.Kind != Put && op.Kind != Mkdir {
		return nil, fmt.Errorf("%s %s: not in the model", op.Kind, op.Path)
	}
	switch op.Kind {
	case Put:
		out[op.Path] = file([]Layer{{Seed: op.Seed, Size: op.Size}})
	case Patch:
		out[op.Path] = file(append(slices.Clone(old.Layers), Layer{Seed: op.Seed, Off: op.Off, Size: op.Size}))
	case Truncate:
		out[op.Path] = file(append(slices.Clone(old.Layers), Layer{Size: op.Size}))
	case Remove, Rmdir:
		delete(out, op.Path)
	case Mkdir:
		out[op.Path] = Node{Dir: true}
	case Rename, Replace:
		for _, p := range t.below(op.Path) {
			delete(out, p)
		}
		for _, p := range t.below(op.Path) {
			out[op.To+strings.TrimPrefix(p, op.Path)] = t[p]
		}
	default:
		return nil, fmt.Errorf("unknown kind of operation %q", op.Kind)
	}
	return out, nil
}

func file(layers []Layer) Node {
	data := Content(layers)
	return Node{Layers: layers, Size: int64(len(data)), Sum: Sum(data)}
}

// below lists p and everything below it.
func (t Tree) below(p string) []string {
	var out []string
	for name := range t {
		if name == p || strings.HasPrefix(name, p+"/") {
			out = append(out, name)
		}
	}
	return out
}

// Diff says in what seen differs from t, "" when it does not. Nodes of seen need no layers.
func (t Tree) Diff(seen Tree) string {
	names := maps.Clone(t)
	maps.Copy(names, seen)
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		want, expected := t[name]
		got, there := seen[name]
		switch {
		case !there:
			lines = append(lines, "missing: "+name)
		case !expected:
			lines = append(lines, fmt.Sprintf("should not be there: %s (%d bytes)", name, got.Size))
		case want.Dir != got.Dir || want.Size != got.Size || want.Sum != got.Sum:
			lines = append(lines, fmt.Sprintf("%s: got %s, want %s", name, got, want))
		}
	}
	return strings.Join(lines, "\n")
}

// String describes a node in a message.
func (n Node) String() string {
	if n.Dir {
		return "a directory"
	}
	return fmt.Sprintf("%d bytes with sum %.12s", n.Size, n.Sum)
}

// files lists the names of files, in order.
func (t Tree) files() []string {
	return t.names(func(_ string, n Node) bool { return !n.Dir })
}

// emptyDirs lists directories that hold nothing, in order.
func (t Tree) emptyDirs() []string {
	return t.names(func(name string, n Node) bool { return n.Dir && len(t.below(name)) == 1 })
}

// dirs lists the directories, in order.
func (t Tree) dirs() []string {
	return t.names(func(_ string, n Node) bool { return n.Dir })
}

func (t Tree) names(want func(string, Node) bool) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if want(name, t[name]) {
			out = append(out, path.Clean(name))
		}
	}
	return out
}

// Save writes the tree to a file, for a client to start from.
func (t Tree) Save(file string) error {
	data, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("saving a tree: %w", err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return fmt.Errorf("saving a tree: %w", err)
	}
	return nil
}

// LoadTree reads what Save wrote.
func LoadTree(file string) (Tree, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("loading a tree: %w", err)
	}
	tree := Tree{}
	if err := json.Unmarshal(data, &tree); err != nil {
		return nil, fmt.Errorf("loading a tree: %w", err)
	}
	return tree, nil
}

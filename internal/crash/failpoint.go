package crash

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// failpointName matches the constants that name failpoints.
var failpointName = regexp.MustCompile(`^[Ff]ail(point)?[A-Z]`)

// Failpoints lists the failpoints of the source below root, sorted: the values of the
// string constants that are named Fail… or Failpoint…, in the directories dirs and below.
// Reading the source finds those of internal packages too, and none can be forgotten.
func Failpoints(root string, dirs ...string) ([]string, error) {
	var names []string
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			found, err := failpointsOf(path)
			names = append(names, found...)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("looking for failpoints: %w", err)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func failpointsOf(path string) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var names []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, ident := range spec.Names {
			if i >= len(spec.Values) || !failpointName.MatchString(ident.Name) {
				continue
			}
			if lit, ok := spec.Values[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if value, err := strconv.Unquote(lit.Value); err == nil {
					names = append(names, value)
				}
			}
		}
		return true
	})
	return names, nil
}

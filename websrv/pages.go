package websrv

import (
	"embed"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed pages
var pageFiles embed.FS

// pages are the templates. Safe for concurrent use.
type pages struct {
	of     map[string]*template.Template // by name
	static map[string]asset              // by name
}

// asset is a file of the pages.
type asset struct {
	contentType string
	data        []byte
}

// loadPages parses the templates: each page with the frame.
func loadPages() (*pages, error) {
	p := &pages{of: map[string]*template.Template{}, static: map[string]asset{}}
	files, err := fs.Glob(pageFiles, "pages/*.html")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		name := strings.TrimSuffix(path.Base(f), ".html")
		if name == "frame" || name == "parts" {
			continue
		}
		t, err := template.ParseFS(pageFiles, "pages/frame.html", "pages/parts.html", f)
		if err != nil {
			return nil, fmt.Errorf("page %s: %w", name, err)
		}
		p.of[name] = t
	}
	for name, contentType := range map[string]string{"style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"} {
		data, err := pageFiles.ReadFile("pages/" + name)
		if err != nil {
			return nil, err
		}
		p.static[name] = asset{contentType, data}
	}
	return p, nil
}

func (p *pages) write(w io.Writer, name string, data any) error {
	t := p.of[name]
	if t == nil {
		return fmt.Errorf("no page %q", name)
	}
	return t.ExecuteTemplate(w, "frame", data)
}

// static answers with the style sheet and the icon, which are nobody's secrets.
func (v *viewer) static(w http.ResponseWriter, r *http.Request) {
	file, ok := v.pages.static[r.PathValue("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", file.contentType)
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("Content-Length", strconv.Itoa(len(file.data)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(file.data) // fails with the connection
	}
}

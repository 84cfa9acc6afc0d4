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
	of    map[string]*template.Template // by name
	style []byte
}

// loadPages parses the templates: each page with the frame.
func loadPages() (*pages, error) {
	p := &pages{of: map[string]*template.Template{}}
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
	p.style, err = pageFiles.ReadFile("pages/style.css")
	return p, err
}

func (p *pages) write(w io.Writer, name string, data any) error {
	t := p.of[name]
	if t == nil {
		return fmt.Errorf("no page %q", name)
	}
	return t.ExecuteTemplate(w, "frame", data)
}

// static answers with the style sheet, which is nobody's secret.
func (v *viewer) static(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("name") != "style.css" {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/css; charset=utf-8")
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("Content-Length", strconv.Itoa(len(v.pages.style)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(v.pages.style) // fails with the connection
	}
}

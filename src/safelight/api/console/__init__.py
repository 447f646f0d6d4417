"""The console: a page that uses the same API as everybody. Plain HTML, CSS and JavaScript modules, served as they are."""

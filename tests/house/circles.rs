//! No circle of files: where the code of a file names an item of another, data flows one way.
//!
//! An edge is a path in a file, tests left out, that resolves to an item defined in another file of the workspace. `mod` and
//! `pub use` of a parent for its child are no edges. What a macro is given counts as far as it is paths.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Item, UseTree,
    visit::{self, Visit},
};

/// A module as absolute path, the package's crate name first.
type ModulePath = Vec<String>;

/// Packages, by the name of their crate, and their first files.
const CRATES: &[(&str, &str)] = &[
    ("imaptrace_imap", "crates/imap/src/lib.rs"),
    ("imaptrace_record", "crates/record/src/lib.rs"),
    ("imaptrace", "src/lib.rs"),
];

#[derive(Default)]
struct Module {
    file: PathBuf,
    /// Items defined here, modules left out.
    items: BTreeSet<String>,
    /// Names that `use` brings here, with the absolute path that each stands for.
    uses: BTreeMap<String, Vec<String>>,
    /// Modules whose names a `use …::*` brings here.
    globs: Vec<Vec<String>>,
    /// All paths that are named here and make an edge, as written.
    named: Vec<Vec<String>>,
}

#[derive(Default)]
pub(crate) struct Tree(BTreeMap<ModulePath, Module>);

impl Tree {
    /// All packages of the workspace.
    pub(crate) fn read(root: &Path) -> Self {
        let mut tree = Self::default();
        for (name, first) in CRATES {
            tree.file(root, Path::new(first), vec![(*name).to_owned()]);
        }
        tree
    }

    fn file(&mut self, root: &Path, file: &Path, path: ModulePath) {
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.module(root, file, path, parsed.items);
    }

    fn module(&mut self, root: &Path, file: &Path, path: ModulePath, items: Vec<Item>) {
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        for item in items {
            if is_test(attributes(&item)) {
                continue;
            }
            match item {
                Item::Mod(inner) => {
                    let name = inner.ident.to_string();
                    let below = [&path[..], std::slice::from_ref(&name)].concat();
                    match inner.content {
                        Some((_, items)) => self.module(root, file, below, items),
                        None => self.file(root, &file_of(root, file, &name, &inner.attrs), below),
                    }
                }
                Item::Use(item) => {
                    let is_public = !matches!(item.vis, syn::Visibility::Inherited);
                    flatten(&item.tree, &[], &mut |full, name| match name {
                        Some(name) => {
                            // A parent hands on what its child defines.
                            if !(is_public && is_child(&full)) {
                                module.named.push(full.clone());
                            }
                            module.uses.insert(name, full);
                        }
                        None => module.globs.push(full),
                    });
                }
                item => {
                    module.items.extend(name_of(&item));
                    let mut paths = Paths::default();
                    paths.visit_item(&item);
                    module.named.extend(paths.0);
                }
            }
        }
        self.0.insert(path, module);
    }

    /// The file in which the item is defined that `path` leads to from module `from`; none for what is not ours, and for a
    /// module as such.
    fn resolve(&self, from: &[String], path: &[String], depth: usize) -> Option<&Path> {
        if depth > 20 {
            return None;
        }
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.walk(&from[..1], rest, depth),
            "self" => self.walk(from, rest, depth),
            "super" => self.walk(from.get(..from.len().checked_sub(1)?)?, rest, depth).or_else(|| {
                // `super::super::…`
                (rest.first().map(String::as_str) == Some("super"))
                    .then(|| self.resolve(&from[..from.len() - 1], rest, depth + 1))
                    .flatten()
            }),
            name if self.0.contains_key(&vec![name.to_owned()]) => self.walk(std::slice::from_ref(first), rest, depth),
            _ => self.walk(from, path, depth),
        }
    }

    fn walk(&self, at: &[String], path: &[String], depth: usize) -> Option<&Path> {
        let (name, rest) = path.split_first()?;
        let module = self.0.get(at)?;
        if module.items.contains(name) {
            return Some(&module.file);
        }
        let below = [at, std::slice::from_ref(name)].concat();
        if self.0.contains_key(&below) {
            return self.walk(&below, rest, depth);
        }
        if let Some(full) = module.uses.get(name) {
            // `use a::name` inside `a` itself, which is not ours.
            return (full != path).then(|| self.resolve(at, &[&full[..], rest].concat(), depth + 1)).flatten();
        }
        module.globs.iter().find_map(|glob| self.resolve(at, &[&glob[..], path].concat(), depth + 1))
    }

    /// Each file with the files whose items it names.
    fn edges(&self) -> BTreeMap<&Path, BTreeSet<&Path>> {
        let mut edges: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
        for (path, module) in &self.0 {
            let found = module.named.iter().filter_map(|named| self.resolve(path, named, 0));
            edges.entry(&module.file).or_default().extend(found.filter(|file| *file != module.file));
        }
        edges
    }

    /// Groups of files that reach each other.
    fn circles(&self) -> Vec<Vec<&Path>> {
        let edges = self.edges();
        let reached: BTreeMap<&Path, BTreeSet<&Path>> = edges.keys().map(|file| (*file, reach(file, &edges))).collect();
        let mut circles: BTreeSet<Vec<&Path>> = BTreeSet::new();
        for (file, found) in &reached {
            if found.contains(file) {
                circles.insert(found.iter().copied().filter(|other| reached[other].contains(file)).collect());
            }
        }
        circles.into_iter().collect()
    }
}

/// All files that edges lead to from one file.
fn reach<'a>(from: &'a Path, edges: &BTreeMap<&'a Path, BTreeSet<&'a Path>>) -> BTreeSet<&'a Path> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(file) = open.pop() {
        open.extend(edges.get(file).into_iter().flatten().copied().filter(|next| seen.insert(*next)));
    }
    seen
}

/// The file of `mod name;` in `file`.
fn file_of(root: &Path, file: &Path, name: &str, attributes: &[Attribute]) -> PathBuf {
    let directory = file.parent().unwrap();
    let named = attributes.iter().find_map(|attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
        let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else { return None };
        pair.path.is_ident("path").then(|| directory.join(text.value()))
    });
    let below = match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod" | "lib" | "main") | None => directory.to_owned(),
        Some(stem) => directory.join(stem),
    };
    named.unwrap_or_else(|| {
        let flat = below.join(format!("{name}.rs"));
        if root.join(&flat).exists() { flat } else { below.join(name).join("mod.rs") }
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// `#[cfg(test)]`, `#[cfg(all(test, …))]`, `#[cfg(any(test, fuzzing))]`, and what another system than Linux has instead.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        let text: String = list.tokens.to_string().chars().filter(|character| !character.is_whitespace()).collect();
        list.path.is_ident("cfg")
            && (text == "test"
                || text.starts_with("all(test")
                || text == "any(test,fuzzing)"
                || text == "not(target_os=\"linux\")")
    })
}

fn name_of(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Macro(item) => item.ident.as_ref()?.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        _ => return None,
    })
}

/// Each path of a `use`, with the name that it brings; none for a glob.
fn flatten(tree: &UseTree, before: &[String], take: &mut impl FnMut(Vec<String>, Option<String>)) {
    let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
    match tree {
        UseTree::Path(path) => flatten(&path.tree, &with(&path.ident), take),
        UseTree::Name(name) if name.ident == "self" => take(before.to_vec(), before.last().cloned()),
        UseTree::Name(name) => take(with(&name.ident), Some(name.ident.to_string())),
        UseTree::Rename(name) => take(with(&name.ident), Some(name.rename.to_string())),
        UseTree::Glob(_) => take(before.to_vec(), None),
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, before, take)),
    }
}

/// Whether it begins in a child of the module that names it.
fn is_child(path: &[String]) -> bool {
    !matches!(path.first().map(String::as_str), Some("crate" | "super"))
}

/// The paths in an item.
#[derive(Default)]
struct Paths(Vec<Vec<String>>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_use_tree(&mut self, tree: &'ast UseTree) {
        flatten(tree, &[], &mut |path, _| self.0.push(path));
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.visit_path(&called.path);
        self.tokens(called.tokens.clone());
    }
}

impl Paths {
    /// `a::b::c` in what a macro is given.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.0.push(std::mem::take(&mut path));
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.0.push(std::mem::take(&mut path));
                    self.tokens(group.stream());
                    colons = 0;
                }
                _ => {
                    self.0.push(std::mem::take(&mut path));
                    colons = 0;
                }
            }
        }
        self.0.push(path);
        self.0.retain(|path| !path.is_empty());
    }
}

#[test]
fn no_files_name_each_other_in_a_circle() {
    let tree = Tree::read(Path::new(env!("CARGO_MANIFEST_DIR")));
    let edges = tree.edges();
    assert!(edges.len() > 200 && edges.values().map(BTreeSet::len).sum::<usize>() > 500, "{} files", edges.len());
    let circles = tree.circles();
    let shown: Vec<String> = circles
        .iter()
        .map(|circle| {
            let lines = circle.iter().map(|file| {
                let to = edges[file].iter().filter(|to| circle.contains(to)).map(|to| to.display().to_string());
                format!("  {} names {}", file.display(), to.collect::<Vec<_>>().join(", "))
            });
            lines.collect::<Vec<_>>().join("\n")
        })
        .collect();
    assert!(circles.is_empty(), "{} circles:\n{}", circles.len(), shown.join("\n\n"));
}

#[test]
fn a_circle_is_found_and_a_parent_that_hands_on_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("crates/imap/src/lib.rs", "pub struct Shared;");
    write("crates/record/src/lib.rs", "mod a;\npub use a::A;\n#[cfg(test)]\nmod tests;");
    write("crates/record/src/a.rs", "pub struct A; fn f() -> imaptrace_imap::Shared { todo() }");
    write("src/lib.rs", "mod a;\nmod b;\nmod c;");
    write("src/a.rs", "use crate::b::B; pub struct A(B); #[cfg(test)] mod tests { use crate::c::C; }");
    write("src/b.rs", "use imaptrace_record::A; pub struct B(A);");
    write("src/c.rs", "use crate::a::A; pub struct C(A);");
    assert!(Tree::read(directory.path()).circles().is_empty());
    let edges = |tree: &Tree| tree.edges().into_values().map(|to| to.len()).collect::<Vec<_>>();
    assert_eq!(edges(&Tree::read(directory.path())), [0, 1, 0, 1, 1, 1, 0]);
    for back in
        ["fn f() { crate::c::C; }", "fn f() { println!(\"{}\", crate::c::C::new()) }", "use super::c::*; fn f(c: C) {}"]
    {
        write("src/b.rs", &format!("use imaptrace_record::A; pub struct B(A); {back}"));
        let tree = Tree::read(directory.path());
        let circles = tree.circles();
        assert_eq!(circles, [["src/a.rs", "src/b.rs", "src/c.rs"].map(Path::new)], "{back}");
    }
}

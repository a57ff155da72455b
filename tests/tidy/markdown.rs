//! Markdown files as these tests look at them: fenced blocks, code in the text, links.

use std::fs;

use crate::source::root;

/// One of the repository's own Markdown files.
pub(crate) struct Page {
    /// From the repository's root.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// What stands between two fences.
pub(crate) struct Block {
    /// As in `lua`.
    pub(crate) language: String,
    pub(crate) text: String,
    /// The line of its opening fence, with its file, as in `README.md:12`.
    pub(crate) place: String,
}

impl Page {
    /// The README, the pages below `docs/` and the change log.
    pub(crate) fn all() -> Vec<Self> {
        let below_docs = fs::read_dir(root().join("docs")).unwrap();
        let mut paths: Vec<String> = below_docs
            .map(|entry| format!("docs/{}", entry.unwrap().file_name().to_string_lossy()))
            .filter(|path| path.ends_with(".md"))
            .collect();
        paths.extend(["README.md".into(), "CHANGELOG.md".into(), "docker/README.md".into()]);
        paths.sort();
        paths.into_iter().map(|path| Self::read(&path)).collect()
    }

    pub(crate) fn read(path: &str) -> Self {
        Self { path: path.into(), text: fs::read_to_string(root().join(path)).unwrap() }
    }

    /// The fenced blocks in one language. A block in a list is indented; so then is its text.
    pub(crate) fn blocks(&self, language: &str) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (line, text) in (1..).zip(self.text.lines()) {
            let fence = text.trim_start().strip_prefix("```");
            match (&mut open, fence) {
                (None, Some(language)) => {
                    let place = format!("{}:{line}", self.path);
                    open = Some(Block { language: language.trim().into(), text: String::new(), place });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => block.text += &format!("{text}\n"),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block without its closing fence", self.path);
        blocks.retain(|block| block.language == language);
        blocks
    }

    /// Everything between single backquotes outside of blocks, with its line.
    pub(crate) fn inline_code(&self) -> Vec<(usize, String)> {
        let mut inside = false;
        let mut found = Vec::new();
        for (line, text) in (1..).zip(self.text.lines()) {
            if text.trim_start().starts_with("```") {
                inside = !inside;
            } else if !inside {
                found.extend(text.split('`').skip(1).step_by(2).map(|code| (line, code.to_owned())));
            }
        }
        found
    }

    /// The targets of links to other files, with their lines.
    pub(crate) fn links(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (line, text) in (1..).zip(self.text.lines()) {
            for (at, _) in text.match_indices("](") {
                let target = text[at + 2..].split(')').next().unwrap_or_default();
                let file = target.split('#').next().unwrap_or_default();
                if !file.is_empty() && !file.contains("://") {
                    found.push((line, file.to_owned()));
                }
            }
        }
        found
    }
}

#[test]
fn blocks_code_and_links_are_found() {
    let text = "a `b.c` [d](e.md#f)\n```lua\nx = 1\n```\n  ```json\n  {}\n  ```\n";
    let page = Page { path: "p.md".into(), text: text.into() };
    let blocks = page.blocks("lua");
    assert_eq!((blocks.len(), blocks[0].text.as_str(), blocks[0].place.as_str()), (1, "x = 1\n", "p.md:2"));
    assert_eq!(page.blocks("json")[0].text, "  {}\n");
    assert_eq!(page.inline_code(), [(1, "b.c".to_owned())]);
    assert_eq!(page.links(), [(1, "e.md".to_owned())]);
}

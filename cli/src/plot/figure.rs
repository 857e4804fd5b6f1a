//! A picture while it is drawn: lines, areas and words, in a coordinate system of 960 by 680.

use super::colour::{GREY, INK};
use super::raster::fitted;
use crate::escape::shown;
use svg::node::Text as Words;
use svg::node::element::{Circle, ClipPath, Definitions, Element, Group, Path, Rectangle};
use svg::{Document, Node};

/// The width of every picture.
pub const WIDTH: f64 = 960.0;
/// The height of every picture.
pub const HEIGHT: f64 = 680.0;
/// The room at the left and right of the title.
const MARGIN: f64 = 28.0;

/// A place in the picture, from its upper left.
pub type Place = (f64, f64);

/// The edges of a part of the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Frame {
    /// Returns the frame with room for half of a dot at its left and right.
    pub fn with_dots(self) -> Frame {
        Frame { left: self.left - 5.0, right: self.right + 5.0, ..self }
    }
}

/// Which end of the words a place is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// How a line looks.
#[derive(Clone, Debug)]
pub struct Stroke {
    pub colour: String,
    pub width: f64,
    /// The lengths of dashes and gaps; a whole line without.
    pub dashes: Option<&'static str>,
}

impl Stroke {
    /// Returns a whole line.
    pub fn new(colour: &str, width: f64) -> Stroke {
        Stroke { colour: colour.to_owned(), width, dashes: None }
    }
}

/// A picture while it is drawn.
pub struct Figure {
    definitions: Definitions,
    clips: usize,
    body: Group,
}

impl Figure {
    /// Begins a picture with a title, and a line below it for each of `lines`.
    pub fn new(title: &str, lines: &[String]) -> Figure {
        let mut figure = Figure { definitions: Definitions::new(), clips: 0, body: Group::new() };
        let room = WIDTH - 2.0 * MARGIN;
        figure.text((MARGIN, 40.0), &fitted(title, 22.0, room), 22.0, INK, Anchor::Start);
        for (row, line) in lines.iter().enumerate() {
            let y = 64.0 + 20.0 * row as f64;
            figure.text((MARGIN, y), &fitted(line, 14.0, room), 14.0, GREY, Anchor::Start);
        }
        figure
    }

    /// Writes words; their base line is at the place.
    pub fn text(&mut self, at: Place, words: &str, size: f64, colour: &str, anchor: Anchor) {
        self.add(text(at, words, size, colour, anchor));
    }

    /// Writes words upward; the middle of their base line is at the place.
    pub fn upward(&mut self, at: Place, words: &str, size: f64, colour: &str) {
        let turn = format!("rotate(-90 {} {})", number(at.0), number(at.1));
        let mut text = text(at, words, size, colour, Anchor::Middle);
        text.assign("transform", turn);
        self.add(text);
    }

    /// Draws a line through places.
    pub fn line(&mut self, places: &[Place], stroke: &Stroke) {
        if places.len() > 1 {
            self.path(&[places], false, None, Some(stroke));
        }
    }

    /// Draws outlines, filled by the rule that a part in an even number of them is outside.
    pub fn area(&mut self, outlines: &[&[Place]], fill: &str, stroke: Option<&Stroke>) {
        if !outlines.is_empty() {
            self.path(outlines, true, Some(fill), stroke);
        }
    }

    fn path(&mut self, lines: &[&[Place]], closed: bool, fill: Option<&str>, stroke: Option<&Stroke>) {
        let mut data = String::new();
        for line in lines {
            append(&mut data, line, closed);
        }
        let mut path = Path::new().set("d", data).set("fill", fill.unwrap_or("none"));
        if closed {
            path = path.set("fill-rule", "evenodd");
        }
        if let Some(stroke) = stroke {
            path = path.set("stroke", stroke.colour.as_str()).set("stroke-width", stroke.width);
            path = path.set("stroke-linejoin", "round").set("stroke-linecap", "round");
            if let Some(dashes) = stroke.dashes {
                path = path.set("stroke-dasharray", dashes).set("stroke-linecap", "butt");
            }
        }
        self.add(path);
    }

    /// Draws a rectangle without soft edges: several side by side have no seams.
    pub fn rectangle(&mut self, frame: Frame, fill: &str) {
        let rectangle = Rectangle::new()
            .set("x", number(frame.left))
            .set("y", number(frame.top))
            .set("width", number(frame.right - frame.left))
            .set("height", number(frame.bottom - frame.top))
            .set("fill", fill)
            .set("shape-rendering", "crispEdges");
        self.add(rectangle);
    }

    /// Draws a circle.
    pub fn circle(&mut self, at: Place, radius: f64, fill: &str, stroke: Option<&Stroke>) {
        let mut circle = Circle::new().set("cx", number(at.0)).set("cy", number(at.1)).set("r", radius);
        circle = circle.set("fill", fill);
        if let Some(stroke) = stroke {
            circle = circle.set("stroke", stroke.colour.as_str()).set("stroke-width", stroke.width);
        }
        self.add(circle);
    }

    /// Draws a star.
    pub fn star(&mut self, at: Place, radius: f64, fill: &str, stroke: &Stroke) {
        let corner = |k: usize| {
            let (turn, length) =
                (std::f64::consts::PI * (k as f64 / 5.0 - 0.5), if k.is_multiple_of(2) { 1.0 } else { 0.42 });
            (at.0 + radius * length * turn.cos(), at.1 + radius * length * turn.sin())
        };
        let corners: Vec<Place> = (0..10).map(corner).collect();
        self.area(&[&corners], fill, Some(stroke));
    }

    /// Draws what stays within a frame.
    pub fn clipped(&mut self, frame: Frame, draw: impl FnOnce(&mut Figure)) {
        let name = format!("clip{}", self.clips);
        self.clips += 1;
        let outer = std::mem::replace(&mut self.body, Group::new());
        draw(self);
        let inner = std::mem::replace(&mut self.body, outer);
        let window = Rectangle::new()
            .set("x", number(frame.left))
            .set("y", number(frame.top))
            .set("width", number(frame.right - frame.left))
            .set("height", number(frame.bottom - frame.top));
        self.definitions.append(ClipPath::new().set("id", name.as_str()).add(window));
        self.add(inner.set("clip-path", format!("url(#{name})")));
    }

    fn add(&mut self, node: impl Into<Box<dyn Node>>) {
        self.body.append(node);
    }

    /// Returns the picture as SVG.
    pub fn into_svg(self) -> String {
        let whole = Rectangle::new().set("width", "100%").set("height", "100%").set("fill", "#ffffff");
        let document = Document::new()
            .set("width", WIDTH)
            .set("height", HEIGHT)
            .set("viewBox", (0, 0, WIDTH as i32, HEIGHT as i32))
            .set("font-family", "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif")
            .add(self.definitions)
            .add(whole)
            .add(self.body);
        format!("{document}\n")
    }
}

fn text(at: Place, words: &str, size: f64, colour: &str, anchor: Anchor) -> Element {
    let anchor = match anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    // An element of the library's own for text is written with ends of lines around the words.
    let mut text = Element::new("text");
    for (name, value) in [("x", number(at.0)), ("y", number(at.1)), ("font-size", size.to_string())] {
        text.assign(name, value);
    }
    text.assign("fill", colour);
    text.assign("text-anchor", anchor);
    // XML has no control characters, and changes of direction would leave the text.
    text.append(Words::new(shown(words)));
    text
}

/// Returns a coordinate with one place behind the point.
fn number(coordinate: f64) -> String {
    let rounded = (coordinate * 10.0).round() / 10.0;
    format!("{}", if rounded == 0.0 { 0.0 } else { rounded })
}

/// Appends a line: its first place, then the way from each to the next, as differences are shorter to write.
fn append(data: &mut String, line: &[Place], closed: bool) {
    let mut pen = (0_i64, 0_i64);
    for (index, &(x, y)) in line.iter().enumerate() {
        let to = ((x * 10.0).round() as i64, (y * 10.0).round() as i64);
        let (right, down) = (to.0 - pen.0, to.1 - pen.1);
        if index > 0 && (right, down) == (0, 0) {
            continue;
        }
        let (right, down) = (number(right as f64 / 10.0), number(down as f64 / 10.0));
        let letter = match index {
            0 => format!("M{right}"),
            1 => format!("l{right}"),
            _ if right.starts_with('-') => right,
            _ => format!(" {right}"),
        };
        let between = if down.starts_with('-') { "" } else { "," };
        data.push_str(&format!("{letter}{between}{down}"));
        pen = to;
    }
    if closed {
        data.push('z');
    }
}

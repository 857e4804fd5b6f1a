//! The kind of module that a parameter would belong to, for rules that tell them apart.

use fallline_core::Shape;

/// The kind of module that a parameter would belong to.
///
/// There are no modules here, so that a training loop says it ([`Binding::kind`](crate::Binding::kind)) or it is
/// guessed ([`ModuleKind::guess`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ModuleKind {
    /// A normalisation: batch, instance, group or layer norm.
    Norm,
    /// A depthwise convolution: one input channel for each group.
    DepthwiseConv,
    /// A table of vectors.
    Embedding,
    /// Anything else.
    Other,
}

impl ModuleKind {
    /// Every kind, by its name in files.
    pub const ALL: [(&'static str, ModuleKind); 4] = [
        ("norm", ModuleKind::Norm),
        ("dwconv", ModuleKind::DepthwiseConv),
        ("embedding", ModuleKind::Embedding),
        ("other", ModuleKind::Other),
    ];

    /// Returns the kind of a name in files: `norm`, `dwconv`, `embedding` or `other`.
    pub fn from_name(name: &str) -> Option<ModuleKind> {
        ModuleKind::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, kind)| kind)
    }

    /// Returns its name in files.
    pub fn name(self) -> &'static str {
        ModuleKind::ALL.into_iter().find(|(_, kind)| *kind == self).map_or("other", |(name, _)| name)
    }

    /// Guesses from a parameter's name and shape. The module is the part of the name before the last dot, and of
    /// that the last part counts, in small letters:
    ///
    /// 1. norm, if it contains `norm`, or the parameter is a `weight` of one dimension. Or it is `bn`, `gn` or `ln`,
    ///    followed by nothing but digits, `_` and one more letter (`bn1`, `ln_f`);
    /// 2. depthwise convolution, if it contains `dwconv`, `dw_conv` or `depthwise`, or is `dw`. Or the parameter is a
    ///    `weight` of three or more dimensions of which the second is 1 (one input channel for each group);
    /// 3. embedding, if it contains `embed`, or is `wte` or `wpe`, or the parameter itself is called `…embed…`;
    /// 4. other.
    ///
    /// ```
    /// use fallline_optim::ModuleKind;
    /// let guess = |name, shape: &[usize]| ModuleKind::guess(name, &shape.into());
    /// assert_eq!(guess("layer1.0.bn2.bias", &[64]), ModuleKind::Norm);
    /// assert_eq!(guess("layer1.0.downsample.1.weight", &[64]), ModuleKind::Norm);
    /// assert_eq!(guess("features.3.conv.weight", &[96, 1, 3, 3]), ModuleKind::DepthwiseConv);
    /// assert_eq!(guess("transformer.wte.weight", &[50257, 768]), ModuleKind::Embedding);
    /// assert_eq!(guess("linear.weight", &[10, 64]), ModuleKind::Other);
    /// ```
    pub fn guess(name: &str, shape: &Shape) -> ModuleKind {
        let (path, own) = name.rsplit_once('.').unwrap_or(("", name));
        let module = path.rsplit('.').next().unwrap_or_default().to_lowercase();
        let short = |name: &str| {
            module.strip_prefix(name).is_some_and(|rest| {
                rest.chars().all(|c| c.is_ascii_digit() || c == '_' || c.is_ascii_lowercase())
                    && rest.chars().filter(char::is_ascii_lowercase).count() <= 1
                    && (rest.is_empty() || !rest.starts_with(|c: char| c.is_ascii_lowercase()))
            })
        };
        let weight = own == "weight";
        let dims = shape.dims();
        if module.contains("norm") || ["bn", "gn", "ln"].into_iter().any(short) {
            return ModuleKind::Norm;
        }
        if weight && dims.len() == 1 {
            return ModuleKind::Norm;
        }
        let depthwise = ["dwconv", "dw_conv", "depthwise"].into_iter().any(|part| module.contains(part));
        if depthwise || module == "dw" || (weight && dims.len() >= 3 && dims[1] == 1) {
            return ModuleKind::DepthwiseConv;
        }
        let table = ["wte", "wpe"].contains(&module.as_str());
        match table || module.contains("embed") || own.to_lowercase().contains("embed") {
            true => ModuleKind::Embedding,
            false => ModuleKind::Other,
        }
    }
}

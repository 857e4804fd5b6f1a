//! The trainable variables of a store, with their names and groups.

use crate::memory;
use std::collections::HashMap;
use tch::Tensor;
use tch::nn::VarStore;

/// A variable, as a store has it.
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) tensor: Tensor,
    pub(crate) shape: Vec<usize>,
    /// Its group in the store, if it is of one.
    pub(crate) group: Option<usize>,
}

impl Variable {
    pub(crate) fn new(name: String, tensor: Tensor, group: Option<usize>) -> Variable {
        let shape = if memory::is_dense(&tensor) {
            tensor.size().iter().map(|&size| size as usize).collect()
        } else {
            Vec::new() // it will be refused
        };
        Variable { name, tensor, shape, group }
    }
}

/// Returns the trainable variables of a store in the order of their names. Frozen ones are among them.
pub(crate) fn trainable(store: &VarStore) -> Vec<Variable> {
    let variables = store.variables_.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // A store has them in one list with groups and in another one with names. What they have in common is their memory.
    let place = |tensor: &Tensor| memory::is_dense(tensor).then(|| tensor.data_ptr());
    let groups: HashMap<_, usize> = variables
        .trainable_variables
        .iter()
        .map(|variable| (place(&variable.tensor), variable.group))
        .collect();
    let mut trainable = Vec::with_capacity(groups.len());
    for (name, tensor) in &variables.named_variables {
        if let Some(group) = groups.get(&place(tensor)) {
            trainable.push(Variable::new(name.clone(), tensor.shallow_clone(), Some(*group)));
        }
    }
    trainable.sort_by(|one, other| one.name.cmp(&other.name));
    trainable
}

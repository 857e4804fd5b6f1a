//! What LBFGS keeps, in a checkpoint: vectors as states of the parameters, numbers in the manifest.

use super::lbfgs::{History, Pair};
use crate::checkpoint::{Checkpoint, OptimizerManifest, ParamManifest};
use crate::{Error, ParamState, Result};
use fallline_core::{Backend, Shape, Storage};
use std::sync::Arc;

impl History {
    /// Returns a state of a parameter.
    pub(super) fn find(&self, param: &str, state: &str) -> Option<&Storage> {
        let place = self.params.iter().position(|(name, _)| name == param)?;
        let (_, vector) = self.vectors().find(|(name, _)| name == state)?;
        vector.get(place)
    }

    /// Returns what is known of each parameter; of the pairs of the history, whose names are made when they are
    /// saved, the bytes.
    pub(super) fn params(&self) -> Vec<ParamState> {
        let vectors = self.vectors().count();
        let of = |((name, shape), storage): (&(String, Shape), &Storage)| ParamState {
            name: name.clone(),
            shape: shape.clone(),
            group: 0,
            steps: self.iterations,
            states: vec!["direction", "gradient"],
            formats: vec![storage.format(); 2],
            state_bytes: vectors * storage.bytes(),
        };
        self.params.iter().zip(&*self.direction).map(of).collect()
    }

    /// Returns the vectors with the names of their states.
    pub(super) fn vectors(&self) -> impl Iterator<Item = (String, &[Storage])> {
        let own =
            [("direction".to_owned(), &self.direction[..]), ("gradient".to_owned(), &self.gradient[..])];
        let pairs = self.pairs.iter().enumerate();
        let pairs =
            pairs.flat_map(|(k, pair)| [(format!("s.{k}"), &pair.s[..]), (format!("y.{k}"), &pair.y[..])]);
        own.into_iter().chain(pairs)
    }

    pub(super) fn save(
        &self,
        backend: &dyn Backend,
        checkpoint: &mut Checkpoint,
        manifest: &mut OptimizerManifest,
    ) -> Result<()> {
        for (name, shape) in &self.params {
            let param = ParamManifest::new(shape.dims(), 0, self.compute);
            manifest.params.insert(name.clone(), param);
            checkpoint.insert_steps(name, self.iterations);
        }
        for (state, vector) in self.vectors() {
            for ((name, shape), storage) in self.params.iter().zip(vector) {
                checkpoint.insert_state(backend, name, &state, shape, storage)?;
            }
        }
        manifest.insert_shared("iterations", self.iterations as f64);
        manifest.insert_shared("evaluations", self.evaluations as f64);
        manifest.insert_shared("pairs", self.pairs.len() as f64);
        manifest.insert_shared("t", self.t);
        manifest.insert_shared("scale", self.scale);
        for (k, pair) in self.pairs.iter().enumerate() {
            manifest.insert_shared(&format!("rho.{k}"), pair.rho);
        }
        Ok(())
    }

    /// Returns the history that a checkpoint holds; none before the first step.
    pub(super) fn load(
        backend: &dyn Backend,
        checkpoint: &Checkpoint,
        manifest: &OptimizerManifest,
        current: Option<&History>,
    ) -> Result<Option<History>> {
        let Some(first) = manifest.params.values().next() else { return Ok(None) };
        let unknown = || Error::Mismatch("LBFGS was computed in an unknown type".into());
        let compute = first.compute().ok_or_else(unknown)?;
        let params: Vec<(String, Shape)> = manifest
            .params
            .iter()
            .map(|(name, param)| (name.clone(), Shape::from(&param.shape[..])))
            .collect();
        if let Some(current) = current
            && (current.params != params || current.compute != compute)
        {
            return Err(Error::Mismatch("it is of other parameters than this optimizer's".into()));
        }
        let whole = |name: &str| match manifest.shared(name)? {
            x if x >= 0.0 && x.fract() == 0.0 && x < 9e15 => Ok(x as u64),
            x => Err(Error::Mismatch(format!("the manifest's {name:?} is {x}, expected an integer"))),
        };
        let vector = |state: &str| -> Result<Vec<Storage>> {
            let requests: Vec<_> =
                params.iter().map(|(_, shape)| (compute.format(), shape.elements())).collect();
            let mut storages = backend.allocate(&requests)?;
            for ((name, shape), storage) in params.iter().zip(&mut storages) {
                checkpoint.read_state(backend, (name, state, compute.format()), shape, storage, false)?;
            }
            Ok(storages)
        };
        let mut pairs = Vec::new();
        for k in 0..whole("pairs")? {
            let rho = manifest.shared(&format!("rho.{k}"))?;
            pairs.push(Arc::new(Pair { s: vector(&format!("s.{k}"))?, y: vector(&format!("y.{k}"))?, rho }));
        }
        let history = History {
            compute,
            iterations: whole("iterations")?,
            evaluations: whole("evaluations")?,
            direction: vector("direction")?.into(),
            t: manifest.shared("t")?,
            gradient: vector("gradient")?.into(),
            pairs,
            scale: manifest.shared("scale")?,
            params,
        };
        let states: Vec<String> = history.vectors().map(|(state, _)| state).collect();
        let other = checkpoint
            .others(
                |param| history.params.iter().any(|(name, _)| name == param),
                |_, state| states.iter().any(|known| known == state),
            )
            .next();
        match other {
            Some((what, problem)) => Err(Error::Mismatch(format!("{what:?} {problem}"))),
            None => Ok(Some(history)),
        }
    }
}

//! A step in pieces: each parameter as soon as its gradient is there.

use super::Driver;
use crate::averaging::Averages;
use crate::{Binding, Error, NonFinite, Result, StepReport};

/// A step that has begun ([`Driver::begin`]).
///
/// A parameter that is applied has taken its step, whether [`finish`](Stream::finish) is called or not. Where it is not, the
/// optimizer does not go on: its next step is [`Error::HalfStep`], which names the parameters that have stepped, until a
/// checkpoint is loaded.
#[must_use = "a step that is not finished is half a step"]
pub struct Stream<'d> {
    driver: &'d mut Driver,
    report: StepReport,
}

impl Driver {
    /// Begins a step in pieces: [`apply`](Stream::apply) steps a parameter as soon as its gradient is there, so that
    /// it is in cache still and the gradient's memory can be used for the next; [`finish`](Stream::finish) ends the
    /// step. The results are those of [`step`](crate::Optimizer::step) to the bit.
    ///
    /// ```
    /// # use fallline_optim::{Driver, Optimizer, param};
    /// # fn backward(optimizer: &mut Driver, weight: &mut Vec<f32>, bias: &mut Vec<f32>) -> fallline_optim::Result<()> {
    /// let mut gradient = vec![0.0f32; 64]; // one buffer for all
    /// let mut step = optimizer.begin()?;
    /// gradient[..32].fill(0.5);
    /// step.apply(param("fc.weight", weight, &gradient[..32]))?;
    /// gradient[..4].fill(0.25);
    /// step.apply(param("fc.bias", bias, &gradient[..4]))?;
    /// assert_eq!(step.finish()?.updated, 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotInPieces`] where all gradients are needed before the first parameter changes: algorithms that look at
    /// all parameters together, several ranks, accumulation, clipping, a loss scale, and any policy for NaN and
    /// infinity but [`NonFinite::Propagate`].
    pub fn begin(&mut self) -> Result<Stream<'_>> {
        self.check_ready()?;
        self.engine.check_training()?;
        let refused = |what: String| Err(Error::NotInPieces { what });
        if self.engine.setup.ranks.is_some() {
            return refused("ranks step together".into());
        }
        for group in &self.engine.setup.groups {
            let algorithm = &group.algorithm;
            let gathers = algorithm.programs().any(|program| program.is_global());
            if gathers || !algorithm.spec().shared.is_empty() {
                return refused(format!("{} looks at all parameters together", algorithm.name()));
            }
        }
        if !self.gradients.config.is_plain() {
            let wrapper = &self.gradients.config;
            return refused(match (&wrapper.scaler, &wrapper.clip) {
                (Some(_), _) => "a loss scale skips a step by all gradients".into(),
                (_, Some(_)) => "clipping looks at all gradients, or has buffers of its own".into(),
                _ => "accumulation has buffers of its own".into(),
            });
        }
        if self.gradients.non_finite != NonFinite::Propagate {
            return refused("the policy for NaN and infinity looks at all gradients".into());
        }
        self.in_pieces = true;
        Ok(Stream { driver: self, report: StepReport::default() })
    }

    /// Checks that it can go on: no step before failed half-way, or was left half taken.
    pub(super) fn check_ready(&mut self) -> Result<()> {
        self.poison.check()?;
        if !self.in_pieces {
            return Ok(());
        }
        let stepped = self.engine.slots.iter().filter(|slot| slot.applied == Some(true));
        let mut params: Vec<String> = stepped.map(|slot| slot.name.clone()).collect();
        params.sort();
        if !params.is_empty() {
            return Err(Error::HalfStep { params });
        }
        self.end_pieces();
        Ok(())
    }

    /// Forgets which parameters were applied.
    fn end_pieces(&mut self) {
        self.in_pieces = false;
        self.engine.slots.iter_mut().for_each(|slot| slot.applied = None);
    }
}

impl Stream<'_> {
    /// Steps one parameter.
    ///
    /// # Errors
    /// As [`step`](crate::Optimizer::step), for this parameter: it is as it was then, those before it have taken their step.
    pub fn apply(&mut self, binding: Binding<'_>) -> Result<()> {
        if self.driver.engine.slots.get(binding.name).is_some_and(|slot| slot.applied.is_some()) {
            return Err(Error::Duplicate { param: binding.name.to_owned() });
        }
        let stepped = self.driver.take_step(&mut [binding], false)?;
        self.report.updated += stepped.updated;
        self.report.without_grad += stepped.without_grad;
        let applied = self.driver.engine.slots.range(0..1).iter_mut();
        applied.for_each(|slot| slot.applied = Some(stepped.updated > 0));
        Ok(())
    }

    /// Ends the step.
    ///
    /// # Errors
    /// [`Error::Unmatched`] where a rule of the configuration has matched no parameter so far; the parameters have taken
    /// their step.
    pub fn finish(self) -> Result<StepReport> {
        self.driver.end_pieces();
        let Driver { engine, averaging, expected, .. } = self.driver;
        engine.advance()?;
        averaging.iter_mut().for_each(Averages::advance);
        engine.count_to_sync();
        expected.check(engine)?;
        expected.clear();
        Ok(self.report)
    }
}

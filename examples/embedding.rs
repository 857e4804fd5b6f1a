//! Row-sparse gradients: two tables of vectors, one for users and one for films, whose products are ratings.
//!
//! A step touches only the users and films that it has seen. The rest of the tables, and of the optimizer's states
//! for them, is neither read nor written.
//!
//! `cargo run --release --example embedding`

use fallline::prelude::*;

const USERS: usize = 1000;
const FILMS: usize = 500;
const WIDTH: usize = 8;
const BATCH: usize = 256;

/// Returns a number in [-1, 1) for a pair of numbers.
fn noise(a: usize, b: usize) -> f32 {
    let mixed = (a as u64 * 0x9E37_79B9 + b as u64 + 1).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // What users like and films have, to be found again from ratings.
    let taste: Vec<[f32; 2]> = (0..USERS).map(|u| [noise(u, 1), noise(u, 2)]).collect();
    let style: Vec<[f32; 2]> = (0..FILMS).map(|f| [noise(f, 3), noise(f, 4)]).collect();
    let rating = |u: usize, f: usize| taste[u][0] * style[f][0] + taste[u][1] * style[f][1];

    let mut users: Vec<f32> = (0..USERS * WIDTH).map(|i| 0.3 * noise(i, 5)).collect();
    let mut films: Vec<f32> = (0..FILMS * WIDTH).map(|i| 0.3 * noise(i, 6)).collect();
    let mut optimizer = fallline::build("dict(type='SparseAdam', lr=0.02)")?;

    let mut losses = Vec::new();
    for step in 0..600 {
        // One row of values for each rating. A user or film that comes up twice is named twice: that adds up.
        let (mut user_rows, mut film_rows) = (Vec::new(), Vec::new());
        let (mut user_grads, mut film_grads) = (Vec::new(), Vec::new());
        let mut loss = 0.0;
        for i in 0..BATCH {
            let draw = step * BATCH + i;
            let (u, f) = (draw * 7919 % USERS, draw * 104_729 / 7 % FILMS);
            let (user, film) = (&users[u * WIDTH..][..WIDTH], &films[f * WIDTH..][..WIDTH]);
            let error = user.iter().zip(film).map(|(a, b)| a * b).sum::<f32>() - rating(u, f);
            loss += error * error / BATCH as f32;
            user_rows.push(u as i64);
            film_rows.push(f as i64);
            user_grads.extend(film.iter().map(|b| 2.0 * error * b / BATCH as f32));
            film_grads.extend(user.iter().map(|a| 2.0 * error * a / BATCH as f32));
        }
        optimizer.step(&mut [
            param("users", &mut users, rows(&user_rows, &user_grads)).shaped(&[USERS, WIDTH]),
            param("films", &mut films, rows(&film_rows, &film_grads)).shaped(&[FILMS, WIDTH]),
        ])?;
        if step % 100 == 0 {
            println!("step {step:3}  loss {loss:.5}");
        }
        losses.push(loss);
    }
    let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
    let (first, last) = (mean(&losses[..20]), mean(&losses[580..]));
    println!("from {first:.4} to {last:.4}");
    assert!(last < 0.2 * first, "the loss went from {first} to {last} only");
    Ok(())
}

//! Which nodes run which stage.

use super::fleet::Member;
use std::sync::Arc;

/// The nodes of each stage.
pub type Homes = Vec<Vec<Arc<Member>>>;

/// Whether `node` is one of those in `homes`.
pub fn has(homes: &[Vec<Arc<Member>>], node: &Arc<Member>) -> bool {
    homes.iter().flatten().any(|home| Arc::ptr_eq(home, node))
}

/// Nodes for stages, of which stage i is to have `wanted[i]`: first those that it has in `now`, and then `others`, in their
/// order. No node gets two stages. Every stage gets a node before any gets a further one, even one that another stage has
/// more than one of; where there are fewer nodes than stages, the last ones get none.
pub fn fill<'a>(
    wanted: &[usize],
    now: &'a [Vec<Arc<Member>>],
    others: impl IntoIterator<Item = &'a Arc<Member>>,
) -> Homes {
    let mut homes: Homes = vec![Vec::new(); wanted.len()];
    for (index, home) in now.iter().enumerate().take(wanted.len()) {
        for node in home {
            if homes[index].len() < wanted[index] && !has(&homes, node) {
                homes[index].push(Arc::clone(node));
            }
        }
    }
    let mut free: Vec<Arc<Member>> = Vec::new();
    for node in now.iter().flatten().chain(others) {
        if !has(&homes, node) && !free.iter().any(|other| Arc::ptr_eq(other, node)) {
            free.push(Arc::clone(node));
        }
    }
    let mut free = free.into_iter();
    for index in 0..homes.len() {
        if homes[index].is_empty() {
            let node = free.next().or_else(|| homes.iter_mut().find(|home| home.len() > 1)?.pop());
            homes[index].extend(node);
        }
    }
    for (home, wanted) in homes.iter_mut().zip(wanted) {
        let missing = wanted.saturating_sub(home.len());
        // A stage without any stands for too few nodes.
        home.extend(free.by_ref().take(missing));
    }
    homes
}

/// The same where stages share nodes rather than have none. `None` if there is no node at all.
pub fn fill_or_share(wanted: &[usize], now: &Homes, others: &[Arc<Member>]) -> Option<Homes> {
    let mut homes = fill(wanted, now, others);
    for index in 0..homes.len() {
        if homes[index].is_empty() {
            let node = others.iter().find(|node| !has(&homes, node)).or_else(|| others.first())?;
            homes[index].push(Arc::clone(node));
        }
    }
    Some(homes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatcher::fleet::Fleet;
    use crate::relay::Token;

    fn nodes(count: usize) -> Vec<Arc<Member>> {
        let urls = (0..count).map(|n| format!("http://n{n}:1").parse().unwrap());
        Fleet::new(urls, &Token::default()).unwrap().members().to_vec()
    }

    fn numbers(homes: &Homes) -> Vec<Vec<usize>> {
        let number = |node: &Arc<Member>| node.url().host_str().unwrap()[1..].parse().unwrap();
        homes.iter().map(|home| home.iter().map(number).collect()).collect()
    }

    #[test]
    fn stages_keep_their_nodes_and_none_has_two() {
        let all = nodes(6);
        let home = |numbers: &[usize]| numbers.iter().map(|&n| Arc::clone(&all[n])).collect::<Vec<_>>();
        for (wanted, now, others, want) in [
            // From nothing: in order, one each before any gets a second.
            (&[1, 2, 1][..], vec![], 6, vec![vec![0], vec![1, 3], vec![2]]),
            (&[1, 1, 1], vec![home(&[4]), home(&[]), home(&[0])], 6, vec![vec![4], vec![1], vec![0]]),
            // Too many now: the ones too many go to where they are needed.
            (&[1, 1, 1], vec![home(&[0, 1, 2])], 0, vec![vec![0], vec![1], vec![2]]),
            // A stage without a node comes before another one's second.
            (&[2, 1], vec![home(&[0, 1])], 0, vec![vec![0], vec![1]]),
            // The same node named twice.
            (&[1, 1], vec![home(&[3]), home(&[3])], 2, vec![vec![3], vec![0]]),
            // More stages than nodes.
            (&[1, 1, 1], vec![], 2, vec![vec![0], vec![1], vec![]]),
            (&[3], vec![home(&[5])], 2, vec![vec![5, 0, 1]]),
        ] {
            assert_eq!(numbers(&fill(wanted, &now, &all[..others])), want, "{wanted:?} of {:?}", numbers(&now));
        }
    }
}

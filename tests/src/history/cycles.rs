//! Circles in the graph of dependencies, and their names.

use std::collections::VecDeque;

use super::{Cycle, CycleKind, Dependency, Step};

/// Nodes that are looked at for the name of one group's circle. Beyond, it is named by what is known: too harmless a name, but named.
const LOOKS_MAX: usize = 20_000_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub from: usize,
    pub to: usize,
    pub dependency: Dependency,
    pub key: Option<u64>,
}

/// Transactions, then moments.
pub(super) struct Graph {
    transactions: usize,
    /// Sorted by where they begin.
    edges: Vec<Edge>,
    /// Where the edges of each node begin in it.
    starts: Vec<usize>,
}

impl Graph {
    pub(super) fn new(transactions: usize, nodes: usize, mut edges: Vec<Edge>) -> Self {
        edges.sort_by_key(|edge| edge.from);
        let mut starts = vec![0; nodes + 1];
        for edge in &edges {
            starts[edge.from + 1] += 1;
        }
        for node in 0..nodes {
            starts[node + 1] += starts[node];
        }
        Self {
            transactions,
            edges,
            starts,
        }
    }

    fn nodes(&self) -> usize {
        self.starts.len() - 1
    }

    fn edges_from(&self, node: usize) -> &[Edge] {
        &self.edges[self.starts[node]..self.starts[node + 1]]
    }

    /// Groups of nodes that can be reached from each other by these edges, which lead from `nodes` to `nodes` (Tarjan, without recursion).
    fn groups(
        &self,
        nodes: &[usize],
        is_in: &dyn Fn(&Edge) -> bool,
        scratch: &mut Scratch,
    ) -> Vec<Vec<usize>> {
        let Scratch {
            index,
            low,
            on_stack,
            ..
        } = scratch;
        let (mut stack, mut groups, mut count) = (Vec::new(), Vec::new(), 0);
        for root in nodes {
            if index[*root] != NEW {
                continue;
            }
            // Nodes on the way, each with how many of its edges were gone.
            let mut way = vec![(*root, 0)];
            while let Some((node, gone)) = way.last_mut() {
                let node = *node;
                if *gone == 0 {
                    (index[node], low[node]) = (count, count);
                    count += 1;
                    stack.push(node);
                    on_stack[node] = true;
                }
                let mut edges = self.edges_from(node)[*gone..].iter();
                let next = edges.find(|edge| {
                    *gone += 1;
                    is_in(edge) && (index[edge.to] == NEW || on_stack[edge.to])
                });
                match next {
                    Some(edge) if index[edge.to] == NEW => way.push((edge.to, 0)),
                    Some(edge) => low[node] = low[node].min(index[edge.to]),
                    None => {
                        way.pop();
                        if let Some((before, _)) = way.last() {
                            low[*before] = low[*before].min(low[node]);
                        }
                        if low[node] == index[node] {
                            let first = stack.iter().rposition(|on| *on == node).unwrap();
                            let group = stack.split_off(first);
                            for node in &group {
                                on_stack[*node] = false;
                            }
                            if group.len() > 1 {
                                groups.push(group);
                            }
                        }
                    }
                }
            }
        }
        for node in nodes {
            index[*node] = NEW;
        }
        groups
    }

    /// The shortest way from one node to another along these edges.
    fn way(
        &self,
        from: usize,
        to: usize,
        is_in: &dyn Fn(&Edge) -> bool,
        looks: &mut usize,
        scratch: &mut Scratch,
    ) -> Option<Vec<Edge>> {
        let reached = &mut scratch.reached;
        scratch.round += 1;
        let round = scratch.round;
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for edge in self.edges_from(node).iter().filter(|edge| is_in(edge)) {
                *looks = looks.checked_sub(1)?;
                if reached[edge.to].0 == round {
                    continue;
                }
                reached[edge.to] = (round, *edge);
                if edge.to == to {
                    let mut way = vec![*edge];
                    while way[way.len() - 1].from != from {
                        way.push(reached[way[way.len() - 1].from].1);
                    }
                    way.reverse();
                    return Some(way);
                }
                queue.push_back(edge.to);
            }
        }
        None
    }
}

/// Not looked at.
const NEW: usize = usize::MAX;

/// What searches note of each node; made once, since there can be many groups.
struct Scratch {
    /// In which order it was come to.
    index: Vec<usize>,
    /// The first that can be reached from it.
    low: Vec<usize>,
    on_stack: Vec<bool>,
    /// By which edge, in which search.
    reached: Vec<(usize, Edge)>,
    round: usize,
}

/// One circle of each group, by the gravest name that one in it has.
pub(super) fn find(graph: &Graph) -> Vec<Cycle> {
    let all: Vec<usize> = (0..graph.nodes()).collect();
    let nowhere = Edge {
        from: 0,
        to: 0,
        dependency: Dependency::RealTime,
        key: None,
    };
    let mut scratch = Scratch {
        index: vec![NEW; graph.nodes()],
        low: vec![0; graph.nodes()],
        on_stack: vec![false; graph.nodes()],
        reached: vec![(0, nowhere); graph.nodes()],
        round: 0,
    };
    let groups = graph.groups(&all, &|_| true, &mut scratch);
    let mut group_of = vec![usize::MAX; graph.nodes()];
    for (number, group) in groups.iter().enumerate() {
        for node in group {
            group_of[*node] = number;
        }
    }
    let mut cycles = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        let within = |edge: &Edge| group_of[edge.to] == number;
        cycles.push(name(graph, group, &within, &mut scratch));
    }
    cycles
}

/// The gravest circle of a group; without real time first.
fn name(
    graph: &Graph,
    group: &[usize],
    within: &dyn Fn(&Edge) -> bool,
    scratch: &mut Scratch,
) -> Cycle {
    use Dependency::{ReadWrite, RealTime, WriteRead, WriteWrite};
    let mut looks = LOOKS_MAX;
    let kinds: [(CycleKind, &[Dependency]); 4] = [
        (CycleKind::G0, &[WriteWrite]),
        (CycleKind::G1c, &[WriteWrite, WriteRead]),
        (CycleKind::GSingle, &[WriteWrite, WriteRead]),
        (CycleKind::G2Item, &[WriteWrite, WriteRead, ReadWrite]),
    ];
    for real_time in [false, true] {
        for (kind, dependencies) in kinds {
            let is_in = |edge: &Edge| {
                within(edge)
                    && (dependencies.contains(&edge.dependency)
                        || real_time && edge.dependency == RealTime)
            };
            let steps = if kind == CycleKind::GSingle {
                // An edge rw, and a way back without one.
                group.iter().find_map(|node| {
                    let edges = graph.edges_from(*node).iter();
                    let mut edges = edges.filter(|edge| within(edge));
                    edges.find_map(|edge| {
                        if edge.dependency != ReadWrite {
                            return None;
                        }
                        let mut way = graph.way(edge.to, edge.from, &is_in, &mut looks, scratch)?;
                        way.insert(0, *edge);
                        Some(way)
                    })
                })
            } else {
                let groups = graph.groups(group, &is_in, scratch);
                groups.first().and_then(|group| {
                    // By way of a transaction, not of a moment.
                    let start = *group.iter().min()?;
                    let mut unlimited = usize::MAX;
                    graph.way(start, start, &is_in, &mut unlimited, scratch)
                })
            };
            if let Some(steps) = steps {
                return cycle(graph, real_time, kind, &steps);
            }
        }
    }
    unreachable!("the last kind takes every edge")
}

/// The circle of these edges, moments left out.
fn cycle(graph: &Graph, real_time: bool, kind: CycleKind, edges: &[Edge]) -> Cycle {
    let steps = edges.iter().filter(|edge| edge.from < graph.transactions);
    let steps = steps.map(|edge| Step {
        transaction: edge.from,
        dependency: edge.dependency,
        key: edge.key,
    });
    Cycle {
        kind,
        real_time,
        steps: steps.collect(),
    }
}

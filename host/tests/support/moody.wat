;; A stage written by hand: loads the graph `slice`, computes it, and has a MOOD in the second run of each instance.
(component
  (import "wasi:nn/errors@0.2.0-rc-2024-10-28" (instance $errors (export "error" (type (sub resource)))))
  (alias export $errors "error" (type $error))
  (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" (instance $tensors (export "tensor" (type (sub resource)))))
  (alias export $tensors "tensor" (type $tensor))
  (import "wasi:nn/inference@0.2.0-rc-2024-10-28" (instance $inference
    (alias outer 1 $error (type $e))
    (alias outer 1 $tensor (type $t))
    (export "graph-execution-context" (type $context (sub resource)))
    (type $named (list (tuple string (own $t))))
    (export "[method]graph-execution-context.compute"
      (func (param "self" (borrow $context)) (param "inputs" $named) (result (result $named (error (own $e))))))))
  (alias export $inference "graph-execution-context" (type $context))
  (import "wasi:nn/graph@0.2.0-rc-2024-10-28" (instance $graphs
    (alias outer 1 $error (type $e))
    (alias outer 1 $context (type $c))
    (export "graph" (type $graph (sub resource)))
    (export "[method]graph.init-execution-context"
      (func (param "self" (borrow $graph)) (result (result (own $c) (error (own $e))))))
    (export "load-by-name" (func (param "name" string) (result (result (own $graph) (error (own $e))))))))

  (core module $memory
    (memory (export "memory") 2)
    (global $next (mut i32) (i32.const 4096))
    ;; Hands out memory and takes none back.
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (local.get $at)))
  (core instance $memory (instantiate $memory))

  (core func $load (canon lower (func $graphs "load-by-name")
    (memory $memory "memory") (realloc (func $memory "realloc"))))
  (core func $open (canon lower (func $graphs "[method]graph.init-execution-context")
    (memory $memory "memory") (realloc (func $memory "realloc"))))
  (core func $compute (canon lower (func $inference "[method]graph-execution-context.compute")
    (memory $memory "memory") (realloc (func $memory "realloc"))))

  (core module $main
    (import "memory" "memory" (memory 2))
    (import "nn" "load" (func $load (param i32 i32 i32)))
    (import "nn" "open" (func $open (param i32 i32)))
    (import "nn" "compute" (func $compute (param i32 i32 i32 i32)))
    (data (i32.const 16) "slice")
    (global $context (mut i32) (i32.const 0))
    (global $runs (mut i32) (i32.const 0))
    ;; A result lies in memory: its tag, and four bytes on a handle, or a list's address and length.
    (func (export "init") (result i32)
      (call $load (i32.const 16) (i32.const 5) (i32.const 32))
      (call $open (i32.load (i32.const 36)) (i32.const 48))
      (global.set $context (i32.load (i32.const 52)))
      (i32.const 128))
    (func (export "run") (param $ptr i32) (param $len i32) (result i32)
      (global.set $runs (i32.add (global.get $runs) (i32.const 1)))
      (if (i32.eq (global.get $runs) (i32.const 2)) (then
        ;; MOOD
      ))
      (call $compute (global.get $context) (local.get $ptr) (local.get $len) (i32.const 256))
      (i32.const 256)))
  (core instance $main (instantiate $main
    (with "memory" (instance $memory))
    (with "nn" (instance
      (export "load" (func $load))
      (export "open" (func $open))
      (export "compute" (func $compute))))))

  (type $named (list (tuple string (own $tensor))))
  (func $init (result (result (error string)))
    (canon lift (core func $main "init") (memory $memory "memory")))
  (func $run (param "inputs" $named) (result (result $named (error string)))
    (canon lift (core func $main "run") (memory $memory "memory") (realloc (func $memory "realloc"))))
  (instance $runner (export "init" (func $init)) (export "run" (func $run)))
  (export "defer:stage/runner@0.1.0" (instance $runner)))

#!/usr/bin/env bash
# Everything that needs a GPU, in one call of at most nine minutes: tests on the device, then the tables, as small JSON
# files.
#
#     benchmarks/gpu.sh [OUT] [PART ...]
#
# PARTs: tests op flex layer scaling memory factorized backends models large detection figure8; default: all, in this
# order. A part that the time does not reach is said to be left out: call again with the parts that are missing. PYTHON
# selects the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}
shift || true
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(tests op flex layer scaling memory factorized backends models large detection figure8)
python=${PYTHON:-python3}
limit=${LIMIT:-540}
stages=(halonet_h0_256 halonet_h3_320 halonet_h4_384 halonet_h5_448 halonet_h6_512 halonet_h7_600)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$out"
status=0

left() { echo $((limit - SECONDS)); }

bench() { # NAME SECONDS ARGUMENT...: a table into OUT/NAME.json
    local name=$1 most=$2
    shift 2
    [ "$most" -le "$(left)" ] || most=$(left)
    if [ "$most" -lt 20 ]; then
        echo "== $name: left out, no time"
        return
    fi
    echo "== $name"
    timeout "$most" "$python" -m halonet bench "$@" --device cuda --json "$out/$name.json" || {
        echo "== $name: failed or out of time"
        status=1
    }
}

beside_efficientnet() { # N:PIXELS BATCH HYBRID...: training steps and inference of H-N and hybrids of it
    local n=${1%:*} size=${1#*:} batch=$2 names=()
    shift 2
    names=("efficientnet_b$n@$size" "halonet_h${n}_$size")
    for hybrid in "$@"; do names+=("halonet_h${n}_${hybrid}_$size"); done
    bench "models_h${n}_gpu" 150 model --compile --batch "$batch" --rounds 3 --models "${names[@]}"
}

for part in "${parts[@]}"; do
    case $part in
    tests)
        echo "== tests on the device"
        timeout 200 "$python" -m pytest tests/ops/test_local_attention_triton.py -q -x -p no:cacheprovider || {
            echo "the kernels are wrong on this device: nothing is timed"
            exit 1
        }
        ;;
    op) bench op_gpu 110 op --models "${stages[@]}" --batch 32 --peers halonet sdpa-bias dense ;;
    flex) bench op_flex_gpu 100 op --models halonet_h0_256 halonet_h4_384 --batch 32 --peers halonet flex ;;
    layer) bench layer_gpu 100 layer --models halonet_h0_256 --batch 32 ;;
    scaling) bench scaling_gpu 60 scaling --batch 1 --sides 32 64 128 256 512 1024 2048 4096 --peers halonet dense ;;
    memory) bench memory_gpu 60 memory --batch 1 --peers halonet sdpa-bias reference ;;
    factorized) bench factorized_gpu 60 factorized --batch 1 --sides 32 64 128 256 512 ;;
    backends) # Figure 3 of the paper: whole models by plain operations, and optimized
        for model in halonet_h0_256 halonet_h2_256 halonet_h4_384; do
            bench "backends_${model}_gpu" 40 model --batch 32 --rounds 3 --models "$model:reference" "$model:sdpa" "$model"
        done
        ;;
    models)
        # The paper's comparison: each HaloNet, its hybrid, and the EfficientNet of its accuracy at the same image size.
        for pair in 0:256 1:256 2:256 3:320 4:384; do beside_efficientnet "$pair" 64 c12; done
        bench models_50_gpu 90 model --compile --batch 64 --rounds 3 --models resnet50@256 halonet50_256
        ;;
    large)
        for pair in 5:448 6:512; do beside_efficientnet "$pair" 32 c12; done
        beside_efficientnet 7:600 16 c1 c12 c123
        ;;
    detection) # Table 5 of the paper: backbones and whole detectors, at its image size
        bench detection_gpu 180 detection --sides 1024 --batch 8 --rounds 3
        ;;
    figure8)
        compgen -G "$out/models_h?_gpu.json" >/dev/null &&
            "$python" -m benchmarks.figure8 "$out"/models_h?_gpu.json --png "$out/figure8_gpu.png"
        ;;
    *)
        echo "gpu.sh: no part '$part'" >&2
        exit 2
        ;;
    esac
done
echo "== done after $SECONDS s"
exit $status

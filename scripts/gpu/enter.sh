# Sourced in the project's root, on a machine without Node: unpacks .gpu/bundle.tar.xz, puts its node and nvcc on PATH and the cuBLAS that
# the toolkit or Python's packages bring on LD_LIBRARY_PATH, and goes into the folder. (Python unpacks: xz may be missing.)
python3 -c "
import tarfile; tarfile.open('.gpu/bundle.tar.xz', 'r:xz').extractall('.gpu', filter='fully_trusted')"
export PATH=$PWD/.gpu/bundle/bin:/usr/local/cuda/bin:$PATH
places=$(python3 - <<'PY'
import glob, os, sysconfig
places = ['/usr/local/cuda/lib64', '/usr/local/cuda/lib'] + glob.glob(sysconfig.get_paths()['purelib'] + '/nvidia/*/lib')
print(':'.join(p for p in places if os.path.isdir(p)))
PY
)
export LD_LIBRARY_PATH=$places${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
cd .gpu/bundle

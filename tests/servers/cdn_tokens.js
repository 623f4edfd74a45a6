// Verifies edge tokens as NHN's and Akamai's edges do, for the edge that the tests run (cdn.py).
//
// The answer is "" for a token that opens the path, else one word. It knows nothing of app/cdn: what is signed there
// and what is verified here have only the published scheme in common.
import crypto from 'crypto';

const TOKEN = /^((?:[a-z]+=[^~&;]+~)+)hmac=([0-9a-f]{64})$/;

function lowerEscapes(text) {
    return text.replace(/%[0-9A-Fa-f]{2}/g, (code) => code.toLowerCase());
}

// java.net.URLEncoder: letters, digits and ".-*_" stay, a space is "+", all else is escaped.
function escapeLikeJava(text) {
    const escaped = encodeURIComponent(text).replace(/[!'()~]/g, (c) => '%' + c.charCodeAt(0).toString(16));
    return lowerEscapes(escaped.replace(/%20/g, '+'));
}

function matches(pattern, path) {
    const parts = pattern.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'));
    return new RegExp('^' + parts.join('.*') + '$').test(path);
}

function tokenOf(r) {
    const cookie = /(?:^|;\s*)token=([^;]*)/.exec(r.headersIn['Cookie'] || '');
    return r.variables.arg_token || r.headersIn['token'] || (cookie ? cookie[1] : '');
}

function path(r) {
    return r.variables.request_uri.split('?')[0];
}

function refusal(r) {
    const found = TOKEN.exec(lowerEscapes(tokenOf(r)));
    if (!found) {
        return 'malformed';
    }
    const signed = found[1].slice(0, -1);
    const fields = {};
    const parts = signed.split('~');
    for (let i = 0; i < parts.length; i++) {
        const name = parts[i].slice(0, parts[i].indexOf('='));
        if (name in fields) {
            return 'malformed';
        }
        fields[name] = parts[i].slice(name.length + 1);
    }
    const source = 'acl' in fields ? signed : signed + '~url=' + escapeLikeJava(path(r));
    const key = Buffer.from(r.variables.edge_key, 'hex');
    if (crypto.createHmac('sha256', key).update(source).digest('hex') !== found[2]) {
        return 'forged';
    }
    const now = Date.now() / 1000;
    if (!/^[0-9]+$/.test(fields.exp || '') || Number(fields.exp) <= now) {
        return 'ended';
    }
    if (fields.st && Number(fields.st) > now) {
        return 'early';
    }
    if (fields.acl) {
        const patterns = decodeURIComponent(fields.acl.replace(/\+/g, ' ')).split('!');
        if (!patterns.some((pattern) => matches(pattern, path(r)))) {
            return 'elsewhere';
        }
    }
    return '';
}

export default { path, refusal };
